"""Webhooks: their endpoints, their deliveries, the schedule of tries, and their signatures."""
