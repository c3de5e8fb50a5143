"""Metrics of scores against the true labels, and the interval of each. Nothing here imports torch."""
