"""Sending webhooks. Free of torch: the web image runs it."""
