"""The clients' own record: one JSON line an event, on disk (fsync) before the event counts as known."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

from tests.chaos.evidence import Accepted, Observed


class History:
    """A file that many threads append to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file = path.open("a", encoding="utf-8")

    def accepted(self, event: Accepted) -> None:
        """Record a 202; returns when it is on disk."""
        self._write("accepted", asdict(event))

    def observed(self, event: Observed) -> None:
        """Record a terminal state that a client was shown."""
        self._write("observed", asdict(event))

    def read(self) -> tuple[list[Accepted], list[Observed]]:
        """Return what is in the file."""
        accepted, observed = [], []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if event.pop("event") == "accepted":
                accepted.append(Accepted(**event))
            else:
                observed.append(Observed(**event))
        return accepted, observed

    def close(self) -> None:
        """Write no more."""
        self._file.close()

    def _write(self, event: str, fields: dict[str, object]) -> None:
        line = json.dumps({"event": event, **fields})
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
