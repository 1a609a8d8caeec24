"""What a real API server would refuse, with its field paths and words."""
