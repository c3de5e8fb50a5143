"""One attempt at a job while this process runs it: its stage, its timings, and whether its lease is still ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any, TypeVar

from shared.domain import AttemptId, ClaimedJob, Stage
from shared.errors import DistildireError, LeaseLostError

_T = TypeVar("_T")


#: Stages whose time the pass watchdog limits: the job's thread waits for the device, whatever becomes of the job.
ON_DEVICE = (Stage.DIFFUSING, Stage.CLASSIFYING)


class WorkerStopsError(DistildireError):
    """The worker was told to stop before the job got past its first stage."""


class RunningAttempt:
    """What the job's own thread, the device's thread and the heartbeat share."""

    def __init__(self, job: ClaimedJob, begin_no_more: threading.Event | None = None) -> None:
        """Begin an attempt at `job`. Once `begin_no_more` is set, it ends with its first stage."""
        self.job = job
        self._begin_no_more = begin_no_more
        self.claimed_at = time.monotonic()
        self.stage = Stage.FETCHING
        self.stage_since = self.claimed_at
        self._spent: dict[str, float] = {}
        self._lost = threading.Event()
        self._awaited: Sequence[Future[Any]] = ()

    def enter(self, stage: Stage) -> None:
        """Proceed to `stage`.

        Raises:
            LeaseLostError: the lease of the job is no longer ours.
            WorkerStopsError: the worker was told to stop, and the job is still at its first stage.

        """
        if self._lost.is_set():
            raise LeaseLostError
        if self.stage is Stage.FETCHING and self._begin_no_more is not None and self._begin_no_more.is_set():
            raise WorkerStopsError
        self.note(stage)

    def note(self, stage: Stage) -> None:
        """Record that the job is at `stage`. Its own thread calls this, or the device's thread while that one waits."""
        self._clock()
        self.stage = stage

    def results_of(self, futures: Sequence[Future[_T]]) -> list[_T]:
        """Wait for all `futures`; if one fails, cancel the rest. Raise `LeaseLostError` once the lease is lost."""
        self._awaited = futures
        if self._lost.is_set():
            self._cancel_awaited()
        try:
            return [future.result() for future in futures]
        except CancelledError:
            raise LeaseLostError from None
        finally:
            self._cancel_awaited()

    def lose(self) -> None:
        """Have the job's thread stop at its next step: the lease is no longer ours."""
        self._lost.set()
        self._cancel_awaited()

    @property
    def lost(self) -> bool:
        """Whether the lease is no longer ours."""
        return self._lost.is_set()

    def wait_lost(self, seconds: float) -> bool:
        """Wait `seconds`, or until the lease is lost; return whether it is."""
        return self._lost.wait(seconds)

    def timings(self) -> dict[str, float]:
        """Return the seconds spent in each stage so far, to the millisecond."""
        self._clock()
        return {stage: round(seconds, 3) for stage, seconds in self._spent.items()}

    def _cancel_awaited(self) -> None:
        for future in self._awaited:
            future.cancel()  # does nothing where it has already ended

    def _clock(self) -> None:
        now = time.monotonic()
        self._spent[self.stage] = self._spent.get(self.stage, 0.0) + now - self.stage_since
        self.stage_since = now


class RunningAttempts:
    """The attempts that this process runs now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[AttemptId, RunningAttempt] = {}
        self._begin_no_more = threading.Event()

    @contextmanager
    def running(self, job: ClaimedJob) -> Iterator[RunningAttempt]:
        """List `job` as running, so that its lease is extended, until the end of the block."""
        attempt = RunningAttempt(job, self._begin_no_more)
        with self._lock:
            self._running[job.attempt_id] = attempt
        try:
            yield attempt
        finally:
            with self._lock:
                del self._running[job.attempt_id]

    def now(self) -> list[RunningAttempt]:
        """Return the attempts that run at this moment."""
        with self._lock:
            return list(self._running.values())

    def living(self) -> list[RunningAttempt]:
        """Return those that can be expected to make progress: their lease is ours, or the device runs them."""
        return [attempt for attempt in self.now() if not attempt.lost or attempt.stage in ON_DEVICE]

    def begin_no_more(self) -> None:
        """End all that are still fetching, and all that begin later, with `WorkerStopsError`."""
        self._begin_no_more.set()
