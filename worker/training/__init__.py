"""Training the student: from labelled images to a model with its card."""
