"""Writes the results of a training: the model's weights, its card and its report."""
