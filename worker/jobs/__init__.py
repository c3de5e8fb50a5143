"""Analysis jobs: taking them, carrying each attempt from image to outcome, and keeping its lease."""
