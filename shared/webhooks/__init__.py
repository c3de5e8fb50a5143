"""Webhooks: endpoints, deliveries, when a try is repeated, and the signature of each."""
