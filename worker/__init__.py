"""Compute: jobs, the model and its training."""

from worker.process.resources import settle_threads

settle_threads()  # before any module of this package imports torch
