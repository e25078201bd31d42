"""Experiments: arms x seeds, contrasts of their updates, and the report."""
