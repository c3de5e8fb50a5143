"""The threads that run jobs, at most one for each slot. A wake-up of Celery or the worker's own polling starts them.

A thread that claims work claims it for all free slots at once: it runs one piece itself, and hands the others to the
executor's own threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from worker.jobs.outcome import OUTAGES

#: Seconds for which nothing is taken after an outage. They double while it lasts, up to a few: an attempt to take work
#: costs a server little, and one that is back should be used soon.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 4.0

#: How many pieces of work are taken at once at most.
_AT_ONCE = 32

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ClaimedWork:
    """A piece of work that was claimed."""

    do: Callable[[], None]
    isolated: bool = False
    """It calls `Executor.wait_until_isolated` before it begins, and no other work is taken until it ends."""


class Executor:
    """Runs at most `slots` pieces of work at once, or one that is isolated."""

    def __init__(
        self,
        take: Callable[[int], Sequence[ClaimedWork]],
        *,
        slots: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take nothing yet.

        Args:
            take: claims work and returns it, at most as many pieces as it is told; an isolated piece comes by itself.
                Where `take` or a piece of work raises an outage, the whole executor pauses, longer each time until a
                piece of work succeeds.
            slots: how many pieces run at once at most.
            clock: the time in seconds.
        """
        self.taken = 0
        """How many pieces of work were taken since the start."""
        self._clock = clock
        self._take = take
        self._slots = threading.Semaphore(slots)
        # One thread takes at a time. One that took an isolated piece holds this lock until that piece has ended.
        self._taking = threading.Lock()
        self._shared = 0
        self._shared_ended = threading.Condition()
        self._own_threads = ThreadPoolExecutor(slots, thread_name_prefix="executor")
        self._stopping = threading.Event()
        self._pausing = threading.Lock()
        self._outages = 0
        self._paused_until = 0.0

    def work(self) -> None:
        """Take and run work until none is left. Raises nothing.

        If no slot is free, wait for one: a thread of Celery's that returned at once would drop its wake-up and fetch
        the next, which an idle worker could have had.
        """
        with self._slots:
            while self._run_next():
                pass

    def look(self) -> None:
        """If a slot is free, have one of the executor's own threads take work for all slots that are free."""
        if not self._stopping.is_set() and self._slots.acquire(blocking=False):
            self._hand_over(None)

    def wait_until_isolated(self) -> None:
        """Wait until no other work runs. Only isolated work may call this: while it runs, no other can begin."""
        with self._shared_ended:
            self._shared_ended.wait_for(lambda: self._shared == 0)

    def stop(self) -> None:
        """Take nothing more. Safe in a signal handler."""
        self._stopping.set()

    def freeze(self, seconds: float) -> None:
        """Stop, in a process that is about to end; wait at most `seconds` for a thread that is taking work now."""
        self.stop()
        self._taking.acquire(timeout=seconds)

    @property
    def stopping(self) -> bool:
        """Whether nothing more is taken."""
        return self._stopping.is_set()

    @property
    def willing(self) -> bool:
        """Whether it would take work now: it is neither stopped nor paused."""
        return not self.stopping and self._clock() >= self._paused_until

    def close(self) -> None:
        """Stop, and wait for the work on the executor's own threads."""
        self.stop()
        self._own_threads.shutdown()

    def _hand_over(self, work: ClaimedWork | None) -> bool:
        """Have one of our own threads run `work` in a slot acquired for it; False if the executor is closed."""
        try:
            self._own_threads.submit(self._work_on_own_thread, work)
        except RuntimeError:  # closed meanwhile
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
        """Take work and run one piece of it; return False if there was none, or if the executor pauses now."""
        with self._taking:
            claimed = self._take_for_free_slots()
            if claimed and claimed[0].isolated:
                return self._do(claimed[0])  # under the lock, so that no thread takes work meanwhile
            self._count_shared(len(claimed))
            left = [work for work in claimed[1:] if not self._hand_over(work)]
        if len(claimed) == _AT_ONCE:
            self.look()  # there may be more work, and free slots
        mine = (*claimed[:1], *left)  # `left` is what found the executor closed
        done = [self._do_beside_others(work) for work in mine]
        return bool(done) and all(done)

    def _take_for_free_slots(self) -> Sequence[ClaimedWork]:
        """Take one piece for this thread's slot and one for each other free slot; acquire the slots that are used."""
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
        except Exception as error:  # noqa: BLE001  # the boundary, as in `_do`
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
        """Run a piece of work; return False if the executor pauses because of it."""
        try:
            work.do()
        except OUTAGES as outage:
            self._pause(outage.message)
            return False
        # The boundary: an exception that leaves a Celery task's body, a MemoryError above all, would wedge the worker.
        except Exception as error:  # noqa: BLE001
            #: A job raised an error that the worker does not expect and could not record. The worker pauses and goes
            #: on; the job runs again when its lease ends. Report the traceback.
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
            if self._clock() < self._paused_until:
                return  # many pieces of work may meet the same outage
            seconds = min(_FIRST_PAUSE * 2**self._outages, _LONGEST_PAUSE)
            self._outages = min(self._outages + 1, 10)
            self._paused_until = self._clock() + seconds
        #: The worker takes no job for so many `seconds`, because of `reason`.
        _log.warning("crew_pauses", seconds=seconds, reason=reason)
