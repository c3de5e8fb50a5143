"""Jobs from submission to deletion: the only statements that change or count them."""
