"""How the demonstration model is made, from photographs to the files that are shipped."""
