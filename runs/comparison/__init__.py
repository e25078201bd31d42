"""Finished runs beside each other, by figures of what they learned and of their weights."""
