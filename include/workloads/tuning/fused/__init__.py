"""Parts of a training step in fewer passes over memory, for processors: the same numbers but for rounding."""
