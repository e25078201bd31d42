"""One training run: a recipe in, checkpoints and metrics out."""
