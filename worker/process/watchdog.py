"""Ends a worker that could work and does not, so that whoever started it starts another."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable

import structlog

_LOOK_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class Watchdog:
    """Looks every `seconds` whether the worker takes something, or has a reason not to.

    It counts looks, not time: a process that was stopped for a while and goes on has done nothing wrong.
    """

    seconds = _LOOK_SECONDS

    def __init__(
        self,
        *,
        idle: Callable[[], bool],
        taken: Callable[[], int],
        waiting: Callable[[], bool],
        patience_seconds: float,
        end: Callable[[], None] | None = None,
    ) -> None:
        """Watch a worker that has `taken` so much until now.

        `idle` says whether it carries nothing, and would take something; `waiting`, asked only then, whether there is
        something that it could take. `end` is called after `patience_seconds` of both; it ends the process.
        """
        self._idle = idle
        self._taken = taken
        self._waiting = waiting
        self._patience = patience_seconds / self.seconds
        self._end = end or _end_process
        self._looks = 0
        self._seen = 0

    def look(self) -> None:
        """Look once; raise `DatabaseUnavailableError` where nobody knows whether anything waits."""
        looks, seen, self._looks, self._seen = self._looks, self._seen, 0, self._taken()
        if self._seen != seen or not self._idle() or not self._waiting():
            return
        self._looks = looks + 1
        if self._looks >= self._patience:
            #: The worker took nothing for `WATCHDOG_SECONDS` although work waits. It writes the stack of every thread
            #: and ends with status 1.
            _log.critical("worker_wedged", seconds=self._looks * self.seconds, threads=_stacks())
            self._end()


def _end_process() -> None:
    os._exit(1)  # no thread of it can be trusted to end


def _stacks() -> dict[str, str]:
    """Return where each thread is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames().items()  # noqa: SLF001  # the documented way
    return {f"{names.get(ident)} {ident}": "".join(traceback.format_stack(frame)) for ident, frame in frames}
