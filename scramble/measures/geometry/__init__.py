"""Where in the spectrum of a weight training acted: subspaces, bounds, principal and low-magnitude masks."""
