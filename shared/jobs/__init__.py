"""Jobs from submission to deletion: how they are accepted, claimed, moved, counted, shown and deleted."""
