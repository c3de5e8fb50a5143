"""Makes the demonstration model, from photographs to the published files."""
