"""The threads that take jobs: woken by Celery, or by the worker's own periodic look, never more than its slots.

Whoever takes work takes it for all free slots at once, and hands the rest to the executor's own threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from worker.jobs.outcome import OUTAGES

#: Seconds for which nothing is taken after an outage; doubled while it lasts, but a server that is back must not wait
#: long: a look costs it nothing.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 4.0

#: So many pieces of work are taken at once at most.
_AT_ONCE = 32

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ClaimedWork:
    """Something to do."""

    do: Callable[[], None]
    isolated: bool = False
    """It shares the executor with no other: it calls `Executor.wait_until_isolated` before it begins."""


class Executor:
    """At most `slots` pieces of work at once, or one that is to be isolated.

    `take(most)` returns the work claimed next, `most` pieces at most; work that is to be isolated comes by itself.
    `take` and the work may raise an outage: the whole executor then pauses, longer each time until some work succeeds.
    """

    def __init__(self, take: Callable[[int], Sequence[ClaimedWork]], *, slots: int) -> None:
        self.taken = 0
        """How many pieces of work were taken until now."""
        self._take = take
        self._slots = threading.Semaphore(slots)
        # One takes at a time; who has taken work that is to be isolated keeps the others out until it has ended.
        self._taking = threading.Lock()
        self._shared = 0
        self._shared_ended = threading.Condition()
        self._own_threads = ThreadPoolExecutor(slots, thread_name_prefix="executor")
        self._stopping = threading.Event()
        self._pausing = threading.Lock()
        self._outages = 0
        self._paused_until = 0.0

    def work(self) -> None:
        """Take work until none is left. Raises nothing.

        Where all slots are taken, wait for one: a thread of Celery's that returned at once would drop its wake-up, and
        fetch the next, which an idle worker could have had.
        """
        with self._slots:
            while self._run_next():
                pass

    def look(self) -> None:
        """If a slot is free, have a thread of our own look for work, for this slot and all that are free."""
        if not self._stopping.is_set() and self._slots.acquire(blocking=False):
            self._hand_over(None)

    def wait_until_isolated(self) -> None:
        """Return when no other work is under way: called by one that is to be isolated, so that none can begin."""
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
        """Whether it would take work now: it neither stops nor pauses."""
        return not self.stopping and time.monotonic() >= self._paused_until

    def close(self) -> None:
        """Stop, and wait for the work on our own threads."""
        self.stop()
        self._own_threads.shutdown()

    def _hand_over(self, work: ClaimedWork | None) -> bool:
        """Have a thread of our own use a slot taken for it, first for `work`; False where there is none."""
        try:
            self._own_threads.submit(self._work_on_own_thread, work)
        except RuntimeError:  # closed since
            self._slots.release()
            return False
        return True

    def _work_on_own_thread(self, first: ClaimedWork | None) -> None:
        try:
            if first is None or self._do_beside_others(first):
                while self._run_next():
                    pass
        finally:
            self._slots.release()

    def _run_next(self) -> bool:
        """Take work and do one piece of it; False where there is none or the executor pauses."""
        with self._taking:
            claimed = self._take_for_free_slots()
            if claimed and claimed[0].isolated:
                return self._do(claimed[0])  # and nobody takes meanwhile
            self._count_shared(len(claimed))
            left = [work for work in claimed[1:] if not self._hand_over(work)]
        if len(claimed) == _AT_ONCE:
            self.look()  # there may be more, and slots for it
        mine = (*claimed[:1], *left)  # where the executor is closed meanwhile, also what got no thread
        done = [self._do_beside_others(work) for work in mine]
        return bool(done) and all(done)

    def _take_for_free_slots(self) -> Sequence[ClaimedWork]:
        """Return work: a piece for this thread's slot, and each other with a slot taken for it."""
        if not self.willing:
            return ()
        spare = 0
        while spare < _AT_ONCE - 1 and self._slots.acquire(blocking=False):
            spare += 1
        claimed: Sequence[ClaimedWork] = ()
        try:
            claimed = self._take(1 + spare)
        except OUTAGES as outage:
            self._pause(outage.message)
        except Exception as error:  # noqa: BLE001  # the boundary, as below
            #: Claiming jobs met an error that the worker does not expect. The worker pauses and looks again. Report the
            #: traceback.
            _log.exception("errands_not_taken")
            self._pause(repr(error))
        finally:
            for _ in range(spare - len(claimed[1:])):
                self._slots.release()
        self.taken += len(claimed)
        return claimed

    def _do_beside_others(self, work: ClaimedWork) -> bool:
        try:
            return self._do(work)
        finally:
            self._count_shared(-1)

    def _do(self, work: ClaimedWork) -> bool:
        """Do a piece of work; False where the executor pauses because of it."""
        try:
            work.do()
        except OUTAGES as outage:
            self._pause(outage.message)
            return False
        # The boundary: whatever left a Celery task's body, a MemoryError above all, would wedge the worker.
        except Exception as error:  # noqa: BLE001
            #: A job raised an error that the worker does not expect, past everything that would have ended it. The
            #: worker pauses and goes on; the job runs again when its lease ends. Report the traceback.
            _log.exception("errand_failed")
            self._pause(repr(error))
            return False
        self._outages = 0
        return True

    def _count_shared(self, more: int) -> None:
        with self._shared_ended:
            self._shared += more
            self._shared_ended.notify_all()

    def _pause(self, reason: str) -> None:
        with self._pausing:
            if time.monotonic() < self._paused_until:
                return  # one outage, met by many pieces of work, is one pause
            seconds = min(_FIRST_PAUSE * 2**self._outages, _LONGEST_PAUSE)
            self._outages = min(self._outages + 1, 10)
            self._paused_until = time.monotonic() + seconds
        #: The worker takes no job for so many `seconds`, because of the `reason` that it names.
        _log.warning("crew_pauses", seconds=seconds, reason=reason)
