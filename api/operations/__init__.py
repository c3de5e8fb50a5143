"""What operators ask of the API's process: is it well, and what does it count."""
