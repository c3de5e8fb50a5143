"""Weights: downloading, checking by digest, installing, converting, and loading into networks."""
