"""Images as files: what their first bytes say, and the pictures that are drawn of a result."""
