"""The report of an evaluation: its JSON, its page, and what goes into the model's card."""
