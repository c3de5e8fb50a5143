"""Sends webhooks. It does not import torch, because the web image runs it."""
