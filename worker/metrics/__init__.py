"""Figures of scores against the truth, and how sure each is. Free of torch."""
