"""What a real API server fills in."""
