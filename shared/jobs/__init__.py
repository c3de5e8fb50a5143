"""Jobs from submission to deletion: how they are accepted, claimed, ended, counted, shown and deleted."""
