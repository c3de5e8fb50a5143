"""One attempt at a job while this process carries it: its stage, its clock, and whether it is still ours."""

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


#: Stages that are the device's to limit: their thread waits for it whatever becomes of the job.
ON_DEVICE = (Stage.DIFFUSING, Stage.CLASSIFYING)


class WorkerStopsError(DistildireError):
    """The worker was told to stop before the job was begun."""


class Attempt:
    """What the job's own thread and the heartbeat both know of it."""

    def __init__(self, job: ClaimedJob, begin_no_more: threading.Event | None = None) -> None:
        """Begin to carry `job`; once `begin_no_more` is set, it goes no further than to the end of its first stage."""
        self.job = job
        self._begin_no_more = begin_no_more
        self.claimed_at = time.monotonic()
        self.stage = Stage.FETCHING
        self.stage_since = self.claimed_at
        self._spent: dict[str, float] = {}
        self._lost = threading.Event()
        self._awaited: Sequence[Future[Any]] = ()

    def enter(self, stage: Stage) -> None:
        """Go on to `stage`.

        Raises:
            LeaseLostError: the job is no longer ours.
            WorkerStopsError: the worker was told to stop, and the job has not got far.

        """
        if self._lost.is_set():
            raise LeaseLostError
        if self.stage is Stage.FETCHING and self._begin_no_more is not None and self._begin_no_more.is_set():
            raise WorkerStopsError
        self.note(stage)

    def note(self, stage: Stage) -> None:
        """Say that the job is at `stage`: by its own thread, or by the device's while that one waits."""
        self._clock()
        self.stage = stage

    def results_of(self, futures: Sequence[Future[_T]]) -> list[_T]:
        """Wait for all `futures`; raise `LeaseLostError` as soon as the job is lost. If one fails, cancel the rest."""
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
        """Tell the job's thread to stop at its next step: canceled, given away, or given back."""
        self._lost.set()
        self._cancel_awaited()

    @property
    def lost(self) -> bool:
        """Whether to stop."""
        return self._lost.is_set()

    def wait_lost(self, seconds: float) -> bool:
        """Wait `seconds`, less if the job is lost meanwhile; return whether it is."""
        return self._lost.wait(seconds)

    def timings(self) -> dict[str, float]:
        """Seconds spent in each stage so far, to the millisecond."""
        self._clock()
        return {stage: round(seconds, 3) for stage, seconds in self._spent.items()}

    def _cancel_awaited(self) -> None:
        for future in self._awaited:
            future.cancel()  # does nothing where it has ended

    def _clock(self) -> None:
        now = time.monotonic()
        self._spent[self.stage] = self._spent.get(self.stage, 0.0) + now - self.stage_since
        self.stage_since = now


class Attempts:
    """All that this process carries now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._carried: dict[AttemptId, Attempt] = {}
        self._begin_no_more = threading.Event()

    @contextmanager
    def carrying(self, job: ClaimedJob) -> Iterator[Attempt]:
        """Carry `job`: its lease is extended from now until the end of the block."""
        attempt = Attempt(job, self._begin_no_more)
        with self._lock:
            self._carried[job.attempt_id] = attempt
        try:
            yield attempt
        finally:
            with self._lock:
                del self._carried[job.attempt_id]

    def now(self) -> list[Attempt]:
        """Return what is carried at this moment."""
        with self._lock:
            return list(self._carried.values())

    def living(self) -> list[Attempt]:
        """Return what is carried and can be expected to go on: not lost, or in the hands of the device."""
        return [attempt for attempt in self.now() if not attempt.lost or attempt.stage in ON_DEVICE]

    def begin_no_more(self) -> None:
        """Have those that are still fetching, now or later, end with `WorkerStopsError`."""
        self._begin_no_more.set()
