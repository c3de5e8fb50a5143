"""One attempt at a job while this process carries it: its stage, its clock, and whether it is still ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

from shared.errors import LeaseLostError
from shared.jobs import ClaimedJob, Stage

_T = TypeVar("_T")


class Attempt:
    """What the job's own thread and the heartbeat both know of it."""

    def __init__(self, job: ClaimedJob) -> None:
        self.job = job
        self.claimed_at = time.monotonic()
        self.stage = Stage.FETCHING
        self.stage_since = self.claimed_at
        self._spent: dict[str, float] = {}
        self._lost = threading.Event()
        self._awaited: Future[object] | None = None

    def enter(self, stage: Stage) -> None:
        """Go on to `stage`; raise `LeaseLostError` where the job is no longer ours."""
        if self._lost.is_set():
            raise LeaseLostError
        self.note(stage)

    def note(self, stage: Stage) -> None:
        """Say that the job is at `stage`: by its own thread, or by the device's while that one waits."""
        self._clock()
        self.stage = stage

    def result_of(self, future: Future[_T]) -> _T:
        """Wait for `future`; raise `LeaseLostError` as soon as the job is lost, and cancel it."""
        self._awaited = future  # type: ignore[assignment]  # only ever canceled
        if self._lost.is_set():
            future.cancel()
        try:
            return future.result()
        except CancelledError:
            raise LeaseLostError from None

    def lose(self) -> None:
        """Tell the job's thread to stop at its next step: canceled, given away, or given back."""
        self._lost.set()
        if self._awaited is not None:
            self._awaited.cancel()

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

    def _clock(self) -> None:
        now = time.monotonic()
        self._spent[self.stage] = self._spent.get(self.stage, 0.0) + now - self.stage_since
        self.stage_since = now


class Attempts:
    """All that this process carries now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._carried: dict[tuple[UUID, int], Attempt] = {}

    @contextmanager
    def carrying(self, job: ClaimedJob) -> Iterator[Attempt]:
        """Carry `job`: its lease is extended from now until the end of the block."""
        attempt = Attempt(job)
        with self._lock:
            self._carried[job.fence] = attempt
        try:
            yield attempt
        finally:
            with self._lock:
                del self._carried[job.fence]

    def now(self) -> list[Attempt]:
        """Return what is carried at this moment."""
        with self._lock:
            return list(self._carried.values())
