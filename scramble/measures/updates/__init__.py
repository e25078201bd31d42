"""What training changed: exact masks, overlaps of runs, and the baselines that they must beat."""
