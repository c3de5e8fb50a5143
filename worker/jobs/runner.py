"""Connects jobs with the executor: claims them, runs each, and releases at the end what could not be finished."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from shared.database.engine import Database
from shared.domain import AttemptId, ClaimedJob
from shared.jobs import claiming, lifecycle
from worker.jobs.attempt import RunningAttempts
from worker.jobs.executor import ClaimedWork, Executor
from worker.jobs.pipeline import Analyzer

#: How long a process that must end waits for a claim that is under way: a pass may be filling the memory meanwhile.
_TAKING_SECONDS = 0.2

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Claims:
    """Claims the jobs that this worker can do."""

    worker: str
    """What the rows of its jobs call this process."""
    model: str
    policies: Sequence[str]
    lease: timedelta
    max_attempts: int

    def claim(self, database: Database, most: int) -> list[ClaimedJob]:
        """Claim the next jobs, at most `most`."""
        return claiming.claim_several(
            database, worker=self.worker, model=self.model, lease=self.lease, policies=self.policies, most=most
        )

    def anything_waits(self, database: Database) -> bool:
        """Whether `claim` would return a job now."""
        return claiming.anything_waits(
            database, worker=self.worker, model=self.model, lease=self.lease, policies=self.policies
        )


class JobRunner:
    """Owns the executor: claims jobs for it, runs each, and puts back into the queue what cannot be finished."""

    def __init__(
        self,
        database: Database,
        claims: Claims,
        analyzer: Analyzer,
        *,
        slots: int,
        device_is_late: Callable[[], bool] = lambda: False,
    ) -> None:
        """Run at most `slots` jobs at once, and claim none while `device_is_late` says so."""
        self.slots = slots
        self.attempts = RunningAttempts()
        self.executor = Executor(self._claim, slots=slots)
        self._database = database
        self._claims = claims
        self._analyzer = analyzer
        self._device_is_late = device_is_late

    @property
    def idle(self) -> bool:
        """Whether it runs nothing, and would claim a job if there were one."""
        return self.executor.willing and not self.attempts.living()

    def stop(self) -> None:
        """Claim no more jobs; those that are still fetching are released, each by the thread that runs it."""
        self.executor.stop()
        self.attempts.begin_no_more()

    def release(self) -> bool:
        """Queue again all jobs that still run; return False where they must wait for their leases to end."""
        running = self.attempts.now()
        for attempt in running:
            attempt.lose()
        if not running:
            return True
        try:
            lifecycle.release(self._database, [attempt.job.attempt_id for attempt in running])
        except Exception:  # noqa: BLE001  # whatever the error is, this process must end
            #: A worker that stops could not queue its jobs again. They run again when their leases end.
            _log.exception("jobs_not_given_back", jobs=len(running))
            return False
        #: A worker that stops queued so many `jobs` again; this does not count against them.
        _log.warning("jobs_given_back", jobs=len(running))
        return True

    def end_process(self, in_pass: Sequence[AttemptId]) -> None:
        """End this process because of a pass with these images in it; first release the jobs that had no part in it."""
        self.executor.freeze(_TAKING_SECONDS)
        try:
            jobs = lifecycle.release_after_device_failure(
                self._database, self._claims.worker, in_pass, max_attempts=self._claims.max_attempts
            )
            #: A worker that ends because of a pass of its device queued its `jobs` again. Those of the pass (`in_pass`)
            #: run alone next.
            _log.warning("jobs_surrendered", jobs=jobs, in_pass=len(in_pass))
        except Exception:  # noqa: BLE001  # whatever the error is, this process must end
            #: A worker that ends because of a pass of its device could not queue its jobs again. They run again when
            #: their leases end.
            _log.exception("jobs_not_surrendered")
        os._exit(1)

    def _claim(self, most: int) -> Sequence[ClaimedWork]:
        if self._device_is_late():
            return ()  # its pass may hang: another worker would serve these jobs sooner
        jobs = self._claims.claim(self._database, most)
        return [ClaimedWork(partial(self._run, job), isolated=job.suspect) for job in jobs]

    def _run(self, job: ClaimedJob) -> None:
        names = structlog.contextvars.bound_contextvars(job_id=str(job.id), attempt=job.attempt)
        with names, self.attempts.running(job) as attempt:
            if job.suspect:
                self.executor.wait_until_isolated()
            self._analyzer.run(attempt)
