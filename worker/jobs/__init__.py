"""Analysis jobs: claiming them, running each attempt from image to outcome, and keeping its lease."""
