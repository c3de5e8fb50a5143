"""Ends a worker that takes no work although work waits, so that its supervisor starts another."""

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
    """Looks every `seconds` whether the worker takes work, or has a reason not to.

    It counts looks, not time: the time for which the process was stopped must not count.
    """

    seconds = _LOOK_SECONDS

    def __init__(
        self,
        *,
        idle: Callable[[], bool],
        taken: Callable[[], int],
        waiting: Callable[[], bool],
        limit_seconds: float,
        end: Callable[[], None] | None = None,
    ) -> None:
        """Watch a worker; nothing is looked at yet.

        Args:
            idle: whether the worker does nothing, and would take work if there were some.
            taken: how many pieces of work it has taken since it started.
            waiting: whether there is work that it could take; called only while the worker is idle.
            limit_seconds: how long it may be idle while work waits.
            end: ends this process; called after that time.
        """
        self._idle = idle
        self._taken = taken
        self._waiting = waiting
        self._limit = limit_seconds / self.seconds
        self._end = end or _end_process
        self._looks = 0
        self._taken_before = 0

    def look(self) -> None:
        """Look once; raise `DatabaseUnavailableError` where the database cannot say whether work waits."""
        looks, before, self._looks, self._taken_before = self._looks, self._taken_before, 0, self._taken()
        if self._taken_before != before or not self._idle() or not self._waiting():
            return
        self._looks = looks + 1
        if self._looks >= self._limit:
            #: The worker took nothing for `WATCHDOG_SECONDS` although work waits. It writes the stack of every thread
            #: and ends with status 1.
            _log.critical("worker_wedged", seconds=self._looks * self.seconds, threads=_stacks())
            self._end()


def _end_process() -> None:
    os._exit(1)  # any of its threads may be stuck


def _stacks() -> dict[str, str]:
    """Return where each thread is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames().items()  # noqa: SLF001  # the documented way
    return {f"{names.get(ident)} {ident}": "".join(traceback.format_stack(frame)) for ident, frame in frames}
