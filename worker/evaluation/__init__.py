"""The evaluation of a model on labelled images: its scores, its figures, and its report."""
