"""Data sets of labelled images: how a folder or a CSV file is read, what is chosen of it, and what a model has seen."""
