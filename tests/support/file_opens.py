"""Counting how often files are opened, whoever opens them: Python, Pillow or numpy."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_counters: list[Counter[Path]] = []
"""Those that count now. An audit hook cannot be removed, so one is added once and looks here."""


@contextmanager
def counted_opens() -> Iterator[Counter[Path]]:
    """Count how often each path is opened inside the block."""
    _add_hook()
    counter: Counter[Path] = Counter()
    _counters.append(counter)
    try:
        yield counter
    finally:
        _counters.remove(counter)


@cache
def _add_hook() -> None:
    sys.addaudithook(_on_event)


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str):
        for counter in _counters:
            counter[Path(arguments[0])] += 1
