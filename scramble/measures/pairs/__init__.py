"""Two checkpoints of one run, read as one update."""
