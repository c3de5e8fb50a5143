"""A thread that does chores again and again: how a worker finds work by itself, without Redis and without beat."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import structlog

from shared.errors import DatabaseUnavailableError

Chore = Callable[[], object]

_log = structlog.get_logger(__name__)


class Lookout:
    """Does each chore every `seconds`, the first time at once; one that fails does not end the others.

    The `farewell` is done last, by the same thread.
    """

    def __init__(
        self, chores: Sequence[Chore], *, seconds: float, name: str = "lookout", farewell: Chore | None = None
    ) -> None:
        self._chores = chores
        self._seconds = seconds
        self._farewell = farewell
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self, within: float | None = None) -> None:
        """End, after the chore that is being done and the farewell; do not wait for longer than `within` seconds."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(within)

    def _run(self) -> None:
        while not self._closed.is_set():
            for chore in self._chores:
                _attend(chore)
            self._closed.wait(self._seconds)
        if self._farewell is not None:
            _attend(self._farewell)


def _attend(chore: Chore) -> None:
    try:
        chore()
    except DatabaseUnavailableError:
        #: PostgreSQL does not answer. The worker asks again at its next look.
        _log.warning("database_away")
    except Exception:  # noqa: BLE001  # one chore that fails must not end the others
        #: A chore that a worker repeats, such as its heartbeat, met an error that it does not expect. It is repeated
        #: all the same. Report the traceback.
        _log.exception("chore_failed")
