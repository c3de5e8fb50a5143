"""What the product's processes said: how attempts ended, and every error that they logged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Logbook:
    """Counts of log lines."""

    attempts: Counter[str]
    """Ends of attempts, by outcome and by whether the database took it."""
    errors: Counter[str]
    """Lines of level error or worse, by process and event."""


def read_logs(folder: Path) -> Logbook:
    """Read the logs of the product's processes, not those of the servers."""
    attempts, errors = Counter[str](), Counter[str]()
    for path in sorted(folder.glob("*.log")):
        for line in _lines(path):
            if line.get("event") == "attempt_ended":
                attempts[f"{line['outcome']}, {line['written']}"] += 1
            elif line.get("level") in ("error", "critical"):
                errors[f"{path.stem}: {str(line.get('event'))[:80]}"] += 1
    return Logbook(attempts, errors)


def _lines(path: Path) -> Iterator[dict[str, object]]:
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if text.startswith("{"):
            try:
                yield json.loads(text)
            except ValueError:  # a line that a kill cut short
                continue
