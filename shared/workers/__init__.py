"""Workers as the database and the operating system know them: who runs, and who has died."""
