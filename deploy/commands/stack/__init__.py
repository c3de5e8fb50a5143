"""Commands that start and stop the whole service on one machine."""
