"""Weights: fetched, recognised by their digests, installed, converted, and given to networks."""
