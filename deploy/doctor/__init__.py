"""What `distildire doctor` asks, and what it finds."""
