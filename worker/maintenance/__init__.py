"""Maintenance: the sweeper, which ends and releases overdue jobs, and retention, which deletes old data."""
