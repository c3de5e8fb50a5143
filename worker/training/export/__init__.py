"""What a training leaves: the model, its card and its report."""
