"""The sweep ends jobs that are overdue or that no worker serves, and queues jobs again whose worker is gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog
from sqlalchemy import Uuid, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from shared.database.engine import Database
from shared.database.statements import statement
from shared.database.tables import JobRow
from shared.domain import JobState
from shared.errors import ErrorCode, JobError
from shared.jobs import tally
from shared.jobs.lifecycle import end_locked, requeue_dropped

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")

#: The key of the advisory lock that lets one process sweep at a time; the project chose the constant.
SWEEP_LOCK = 0x44697265
#: The most jobs that a sweep takes in one transaction; the next sweep takes the rest.
_SWEEP_BATCH = 500
_DROPPED = text("SELECT id FROM running_jobs WHERE lease_until < now() LIMIT :most").columns(id=Uuid)
_WANT_POLICY = statement("shared.jobs", "waiting_for_policy").columns(id=Uuid)


@dataclass(frozen=True)
class SweepReport:
    """What one sweep found."""

    released: int = 0
    """Jobs whose lease had ended; they were queued again."""
    exhausted: int = 0
    """Jobs that failed because their worker died too often."""
    expired: int = 0
    """Jobs that expired because their deadline passed."""
    queued: int = 0
    """Jobs that wait now."""


def sweep(database: Database, *, max_attempts: int) -> SweepReport | None:
    """End overdue jobs and queue jobs again whose worker dropped them. None: another process sweeps at the moment."""
    with database.begin() as session:
        if not session.scalar(select(func.pg_try_advisory_xact_lock(SWEEP_LOCK))):
            return None
        expired = _expire_overdue(session)
        released, exhausted = _release_dropped(session, max_attempts)
        return SweepReport(released, exhausted, expired, tally.totals(session).jobs_waiting)


def fail_unserved(database: Database, model: str | None, policy: str, *, waited: timedelta) -> int:
    """Fail jobs that have waited this long for a worker with their policy; return how many, some hundreds at most."""
    minutes = waited.total_seconds() / 60
    error = JobError(
        ErrorCode.MODEL_UNAVAILABLE,
        f"No worker has had the policy {policy!r} for {minutes:.0f} minutes. Ask the operator, or name another.",
    )
    wanted = {"model": model or "", "policy": policy, "waited": waited, "most": _SWEEP_BATCH}
    with database.begin() as session:
        found = session.scalars(_WANT_POLICY, wanted).all()
        locked = session.scalars(select(JobRow).where(JobRow.id.in_(found)).with_for_update(skip_locked=True)).all()
        waiting = [job for job in locked if job.state == JobState.QUEUED]
        return len(_each(session, waiting, lambda job: end_locked(session, job, JobState.FAILED, error=error)))


def _expire_overdue(session: Session) -> int:
    overdue = (
        select(JobRow)
        .where(JobRow.state.in_([JobState.QUEUED, JobState.RUNNING]), JobRow.deadline_at <= func.now())
        .order_by(JobRow.deadline_at)  # by the index of it, however little PostgreSQL knows of how many are overdue
        .limit(_SWEEP_BATCH)
        .with_for_update(skip_locked=True)
    )

    def end(job: JobRow) -> None:
        end_locked(session, job, JobState.EXPIRED, error=JobError(ErrorCode.DEADLINE_EXCEEDED))

    return len(_each(session, session.scalars(overdue).all(), end))


def _release_dropped(session: Session, max_attempts: int) -> tuple[int, int]:
    found = session.scalars(_DROPPED, {"most": _SWEEP_BATCH}).all()
    dropped = (
        select(JobRow).where(JobRow.id.in_(found), JobRow.lease_until < func.now()).with_for_update(skip_locked=True)
    )

    def drop(job: JobRow) -> bool:
        return requeue_dropped(session, job, counts=job.isolated, max_attempts=max_attempts)

    ended = _each(session, session.scalars(dropped).all(), drop)
    return ended.count(False), ended.count(True)


def _each(session: Session, jobs: Sequence[JobRow], move: Callable[[JobRow], _T]) -> list[_T]:
    """Move each job; return what came of those that could be moved.

    A call that fails for an unforeseen reason must not stop the sweep of all other jobs, which would fail each time.
    """
    moved = []
    for job in jobs:
        job_id = job.id
        try:
            with session.begin_nested():
                moved.append(move(job))
                session.flush()
        except Exception as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            #: The sweep could not queue, fail or expire a job that was due for it. Check that the schema is this
            #: release's (`distildire db upgrade`); otherwise report the traceback.
            _log.exception("job_not_swept", job_id=str(job_id))
    return moved
