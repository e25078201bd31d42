"""Function-preserving changes to language-model checkpoints, and exact measures of what training changed."""

__version__ = "0.1.0"
