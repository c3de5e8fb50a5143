"""What the API refuses: the table of all problems, and the handlers that answer an error with one of them."""
