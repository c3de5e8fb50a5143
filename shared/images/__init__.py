"""Images as files: checks of their headers, and the pictures that are drawn for a result."""
