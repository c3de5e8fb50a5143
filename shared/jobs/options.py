"""Converts a job's options to the columns of its row and back. No other module copies them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from shared.domain import JobOptions


def to_columns(options: JobOptions) -> dict[str, Any]:
    """Return the columns of `jobs` that hold these options, with their values."""
    return {**vars(options), "pictures": list(options.pictures)}


def from_columns(row: Any) -> JobOptions:
    """Return the options in `row`: a row of `jobs`, or of a query that returns the columns of `to_columns`."""
    columns = {option.name: getattr(row, option.name) for option in fields(JobOptions)}
    return JobOptions(**{**columns, "pictures": tuple(row.pictures)})
