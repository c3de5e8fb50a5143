"""Data sets of labelled images: reading a folder or a CSV file, choosing images, and finding those a model knows."""
