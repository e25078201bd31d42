"""What training changed: counts, spectra, maps, curvature."""
