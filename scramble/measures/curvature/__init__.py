"""Curvature of the loss beside what is said to stand for it, and how far an update moves the model."""
