"""What is wrong with a Workspace or its ConfigMaps, all faults at once, before anything costs money; pure functions."""
