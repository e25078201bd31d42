"""Dense families whose norms are RMS norms."""
