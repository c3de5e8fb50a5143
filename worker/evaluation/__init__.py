"""The evaluation of a model on labelled images: its scores, its estimates, and its report."""
