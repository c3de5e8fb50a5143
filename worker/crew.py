"""The threads that take jobs: woken by Celery, or sent by the worker's own look-out, never more than its slots."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from worker.outcome import OUTAGES

#: Seconds for which nothing is taken after an outage; doubled while it lasts.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0

_log = structlog.get_logger(__name__)

Errand = Callable[[], None]


class Crew:
    """At most `slots` errands at once.

    `take` returns the next errand, None where nothing is to be done. Either may raise an outage: the whole crew then
    pauses, longer each time until an errand succeeds.
    """

    def __init__(self, take: Callable[[], Errand | None], *, slots: int) -> None:
        self._take = take
        self._slots = threading.Semaphore(slots)
        self._own_threads = ThreadPoolExecutor(slots, thread_name_prefix="crew")
        self._stopping = threading.Event()
        self._pausing = threading.Lock()
        self._outages = 0
        self._paused_until = 0.0

    def work(self) -> None:
        """Take errands until none is left. Raises nothing.

        Where all slots are taken, wait for one: a thread of Celery's that returned at once would drop its wake-up, and
        fetch the next, which an idle worker could have had.
        """
        with self._slots:
            while self._run_next():
                pass

    def look(self) -> None:
        """If a slot is free, have a thread of our own look for errands; where it finds one, another looks too."""
        if not self._stopping.is_set() and self._slots.acquire(blocking=False):
            try:
                self._own_threads.submit(self._work_on_own_thread)
            except RuntimeError:  # closed since
                self._slots.release()

    def stop(self) -> None:
        """Take nothing more. Safe in a signal handler."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether nothing more is taken."""
        return self._stopping.is_set()

    def close(self) -> None:
        """Stop, and wait for the errands on our own threads."""
        self.stop()
        self._own_threads.shutdown()

    def _work_on_own_thread(self) -> None:
        try:
            while self._run_next(before=self.look):
                pass
        finally:
            self._slots.release()

    def _run_next(self, before: Callable[[], None] | None = None) -> bool:
        """Do the next errand; False where there is none or the crew pauses."""
        if self._stopping.is_set() or time.monotonic() < self._paused_until:
            return False
        try:
            errand = self._take()
            if errand is None:
                return False
            if before:
                before()
            errand()
        except OUTAGES as outage:
            self._pause(outage.message)
            return False
        # The boundary: whatever left a Celery task's body, a MemoryError above all, would wedge the worker.
        except Exception as error:  # noqa: BLE001
            _log.exception("errand_failed")
            self._pause(repr(error))
            return False
        self._outages = 0
        return True

    def _pause(self, reason: str) -> None:
        with self._pausing:
            if time.monotonic() < self._paused_until:
                return  # one outage, met by many errands, is one pause
            seconds = min(_FIRST_PAUSE * 2**self._outages, _LONGEST_PAUSE)
            self._outages = min(self._outages + 1, 10)
            self._paused_until = time.monotonic() + seconds
        _log.warning("crew_pauses", seconds=seconds, reason=reason)
