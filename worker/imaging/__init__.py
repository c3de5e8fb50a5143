"""Reading image files: whether a file is complete, its pixels, and facts about it. Nothing here imports torch."""
