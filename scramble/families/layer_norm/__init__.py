"""Dense families whose norms are layer norms."""
