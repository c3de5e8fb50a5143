"""The device: batches of images for it, and the watch over each of its passes."""
