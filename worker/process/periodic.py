"""A thread that calls callbacks again and again: how a worker finds work by itself, without Redis and without beat."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import structlog

from shared.errors import DatabaseUnavailableError

Callback = Callable[[], object]

_log = structlog.get_logger(__name__)


class Periodic:
    """Calls each callback every `seconds`, the first time at once; one that fails does not end the others.

    `on_close` is called last, by the same thread.
    """

    def __init__(
        self, callbacks: Sequence[Callback], *, seconds: float, name: str = "periodic", on_close: Callback | None = None
    ) -> None:
        self._callbacks = callbacks
        self._seconds = seconds
        self._on_close = on_close
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to call."""
        self._thread.start()

    def close(self, within: float | None = None) -> None:
        """End, after the callback under way and `on_close`; do not wait for longer than `within` seconds."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(within)

    def _run(self) -> None:
        while not self._closed.is_set():
            for callback in self._callbacks:
                _attend(callback)
            self._closed.wait(self._seconds)
        if self._on_close is not None:
            _attend(self._on_close)


def _attend(callback: Callback) -> None:
    try:
        callback()
    except DatabaseUnavailableError:
        #: PostgreSQL does not answer. The worker asks again at its next look.
        _log.warning("database_away")
    except Exception:  # noqa: BLE001  # one callback that fails must not end the others
        #: A callback that a worker repeats, such as its heartbeat, met an error that it does not expect. It is repeated
        #: all the same. Report the traceback.
        _log.exception("chore_failed")
