"""How long each stage took, over all the runs that it needed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.atomic_files import write_whole


class Stopwatch:
    """Seconds by stage, kept in a JSON file. It lacks the time of a killed run, which could not write it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every stage so far."""
        found: dict[str, float] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        return found

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add a stage's time to what earlier, interrupted runs spent on it."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = self.seconds()
            seconds[stage] = round(seconds.get(stage, 0.0) + time.monotonic() - started, 1)
            write_whole(self.path, json.dumps(seconds).encode())
