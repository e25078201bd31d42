"""Whether two checkpoints compute one function."""
