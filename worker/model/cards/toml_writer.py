"""Values as TOML, for the cards and policies that are written here: the standard library only reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime


def assignments(fields: Mapping[str, object]) -> list[str]:
    """Return a line for each field; what is None is left out, as TOML has no null.

    JSON's strings, numbers, booleans and lists are TOML's too; times are not JSON's.
    """
    return [f"{key} = {_value(value)}" for key, value in fields.items() if value is not None]


def _value(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else json.dumps(value, ensure_ascii=False)
