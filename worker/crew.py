"""The threads that take jobs: woken by Celery, or sent by the worker's own look-out, never more than its slots."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from worker.outcome import OUTAGES

#: Seconds for which nothing is taken after an outage; doubled while it lasts, but a server that is back must not wait
#: long: a look costs it nothing.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 4.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Errand:
    """Something to do."""

    do: Callable[[], None]
    alone: bool = False
    """It shares the crew with no other: it calls `Crew.wait_until_alone` before it begins."""


class Crew:
    """At most `slots` errands at once, or one that is to be alone.

    `take` returns the next errand, None where nothing is to be done. Either may raise an outage: the whole crew then
    pauses, longer each time until an errand succeeds.
    """

    def __init__(self, take: Callable[[], Errand | None], *, slots: int) -> None:
        self.taken = 0
        """How many errands were taken until now."""
        self._take = take
        self._slots = threading.Semaphore(slots)
        # One takes at a time; who has taken an errand that is to be alone keeps the others out until it has ended.
        self._taking = threading.Lock()
        self._shared = 0
        self._shared_ended = threading.Condition()
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

    def wait_until_alone(self) -> None:
        """Return when no other errand is under way: called by one that is to be alone, so that none can begin."""
        with self._shared_ended:
            self._shared_ended.wait_for(lambda: self._shared == 0)

    def stop(self) -> None:
        """Take nothing more. Safe in a signal handler."""
        self._stopping.set()

    def freeze(self, seconds: float) -> None:
        """Stop for good, in a process that is about to end; wait so long for one who is just taking."""
        self.stop()
        self._taking.acquire(timeout=seconds)

    @property
    def stopping(self) -> bool:
        """Whether nothing more is taken."""
        return self._stopping.is_set()

    @property
    def willing(self) -> bool:
        """Whether it would take an errand now: it neither stops nor pauses."""
        return not self.stopping and time.monotonic() >= self._paused_until

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
        try:
            with self._next() as errand:
                if errand is None:
                    return False
                if before:
                    before()
                errand.do()
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

    @contextmanager
    def _next(self) -> Iterator[Errand | None]:
        """Take an errand, to be done inside the block."""
        with self._taking:
            errand = self._take() if self.willing else None
            self.taken += errand is not None
            if errand is None or errand.alone:
                yield errand
                return
            self._count_shared(1)
        try:
            yield errand
        finally:
            self._count_shared(-1)

    def _count_shared(self, more: int) -> None:
        with self._shared_ended:
            self._shared += more
            self._shared_ended.notify_all()

    def _pause(self, reason: str) -> None:
        with self._pausing:
            if time.monotonic() < self._paused_until:
                return  # one outage, met by many errands, is one pause
            seconds = min(_FIRST_PAUSE * 2**self._outages, _LONGEST_PAUSE)
            self._outages = min(self._outages + 1, 10)
            self._paused_until = time.monotonic() + seconds
        _log.warning("crew_pauses", seconds=seconds, reason=reason)
