"""A thread that calls callbacks again and again. By it a worker finds work even without Redis and beat."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import structlog

from shared.errors import DatabaseUnavailableError

Callback = Callable[[], object]

_log = structlog.get_logger(__name__)


class Periodic:
    """Calls each callback every `seconds`, the first time at once. One that fails does not stop the others.

    The same thread calls `on_close` last.
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
        """Start the thread."""
        self._thread.start()

    def close(self, within: float | None = None) -> None:
        """End after the callback under way and `on_close`; wait for that at most `within` seconds."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(within)

    def _run(self) -> None:
        while not self._closed.is_set():
            for callback in self._callbacks:
                _call(callback)
            self._closed.wait(self._seconds)
        if self._on_close is not None:
            _call(self._on_close)


def _call(callback: Callback) -> None:
    try:
        callback()
    except DatabaseUnavailableError:
        #: PostgreSQL does not answer. The worker soon tries again.
        _log.warning("database_away")
    except Exception:  # noqa: BLE001  # a callback that fails must not end the others
        #: A callback that a worker repeats, such as its heartbeat, met an error that it does not expect. The worker
        #: goes on repeating it. Report the traceback.
        _log.exception("chore_failed")
