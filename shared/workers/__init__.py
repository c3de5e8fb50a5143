"""Workers as the database and the operating system know them: which ones run, and which have died."""
