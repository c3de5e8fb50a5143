"""The thread by which a worker looks for work by itself, so that jobs get done without Redis and without beat."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import structlog

from shared.errors import DatabaseUnavailableError

_log = structlog.get_logger(__name__)


class Lookout:
    """Calls each chore every `seconds`, the first time at once."""

    def __init__(self, chores: Sequence[Callable[[], object]], *, seconds: float) -> None:
        self._chores = chores
        self._seconds = seconds
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End, after the chore that is being done."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            for chore in self._chores:
                _attend(chore)
            self._closed.wait(self._seconds)


def _attend(chore: Callable[[], object]) -> None:
    try:
        chore()
    except DatabaseUnavailableError:
        _log.warning("database_away")
    except Exception:  # noqa: BLE001  # one chore that fails must not end the others
        _log.exception("chore_failed")
