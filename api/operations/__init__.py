"""What operators ask the API's process: its health and its metrics."""
