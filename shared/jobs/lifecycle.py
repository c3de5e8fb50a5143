"""The state transitions of a job, except for the claim (claiming.py) and the sweep (sweeping.py).

PostgreSQL is the source of truth. The attempt that claimed a job owns it for as long as it extends its lease. Every
write for a job is fenced by `(id, attempt, state = 'running')`, so an attempt that lost its lease writes nothing. A job
ends once: one transaction writes the result, the terminal state and the webhooks to send.

When a worker dies, nobody knows which of its jobs caused it. No death is counted against any of them; each becomes a
*suspect*, which next runs in a process that holds no other job. Only the death of such a process counts
(docs/adr/0006).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Uuid, delete, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shared.database.engine import Database
from shared.database.statements import statement
from shared.database.tables import JobRow, WorkerRow
from shared.domain import AttemptId, JobResult, JobState, NewJob, Stage
from shared.errors import ErrorCode, JobError, KeyTakenError, LeaseLostError
from shared.jobs.claiming import FRESH
from shared.jobs.options import to_columns
from shared.jobs.results import to_row
from shared.tenants import usage
from shared.webhooks.outbox import write_events

#: The unique index that allows a tenant one job for each idempotency key.
_KEY_INDEX = "jobs_idempotency"
_HEARTBEAT = statement("shared.jobs", "heartbeat").columns(id=Uuid)
_ANOTHER_READY = statement("shared.jobs", "another_worker_is_ready")
_HELD_BY = text("SELECT id FROM running_jobs WHERE worker = :worker").columns(id=Uuid)


def create(session: Session, new: NewJob, *, deadline: timedelta) -> JobRow:
    """Write an accepted job; it exists for workers when the caller's transaction commits.

    It expires after `deadline`, unless its options name another time.

    Raises:
        KeyTakenError: the tenant has a job with this idempotency key; the transaction can only be rolled back.

    """
    chosen = new.options.deadline_seconds
    job = JobRow(
        id=new.id,
        tenant_id=new.tenant_id,
        deadline_at=func.now() + (deadline if chosen is None else timedelta(seconds=chosen)),
        priority=new.priority,
        source_key=new.source_key,
        source_sha256=new.source_sha256,
        source_bytes=new.source_bytes,
        media_type=new.media_type,
        idempotency_key=new.idempotency_key,
        key_id=new.key_id,
        replay_of=new.replay_of,
        **to_columns(new.options),
    )
    session.add(job)
    try:
        session.flush()  # waits for a transaction that writes the same key
    except IntegrityError as error:
        if _KEY_INDEX in str(error.orig):
            raise KeyTakenError from error
        raise
    session.refresh(job)
    return job


def begin_isolated(database: Database, attempt_id: AttemptId) -> None:
    """Record that the process holds this job and no other: if it dies from now on, the job caused it.

    Raises:
        LeaseLostError: this attempt no longer owns the job.

    """
    with database.begin() as session:
        _owned(session, attempt_id).isolated = True


def heartbeat(database: Database, stages: Mapping[AttemptId, Stage], *, lease: timedelta) -> set[AttemptId]:
    """Extend the leases of these attempts and record their stages; return those that still own their jobs.

    If an attempt is missing from the result, its job was canceled, expired or given to another worker.
    """
    if not stages:
        return set()
    beat = {
        "ids": [str(attempt.job_id) for attempt in stages],
        "attempts": [attempt.attempt for attempt in stages],
        "stages": [str(stage) for stage in stages.values()],
        "lease": lease,
    }
    with database.begin() as session:
        session.execute(text("SET LOCAL synchronous_commit = off"))  # losing a heartbeat only ends the lease earlier
        return {AttemptId(row.id, row.attempt) for row in session.execute(_HEARTBEAT, beat)}


def succeed(database: Database, attempt_id: AttemptId, result: JobResult) -> bool:
    """End a job with its verdict; return whether a webhook must be sent now.

    Raises:
        LeaseLostError: this attempt no longer owns the job; nothing was written.

    """
    with database.begin() as session:
        job = _owned(session, attempt_id)
        session.add(to_row(*attempt_id, result))
        return end_locked(session, job, JobState.SUCCEEDED, result=result)


def fail(database: Database, attempt_id: AttemptId, error: JobError) -> bool:
    """End a job with its error. Returns and raises as `succeed`."""
    with database.begin() as session:
        return end_locked(session, _owned(session, attempt_id), JobState.FAILED, error=error)


def try_elsewhere(
    database: Database, attempt_id: AttemptId, error: JobError, *, model: str, policy: str | None
) -> bool:
    """Queue a job again that the device of its worker cannot classify, for another worker with this model and policy.

    Where another could not classify it either, or there is none, the job fails with `error`. Returns and raises as
    `fail`.
    """
    with database.begin() as session:
        job = _owned(session, attempt_id)
        others = {"model": model, "policy": policy or "", "worker": job.worker, "fresh": FRESH}
        if job.failed_on not in (None, job.worker) or not session.scalar(_ANOTHER_READY, others):
            return end_locked(session, job, JobState.FAILED, error=error)
        job.failed_on = job.worker
        _queue(job)
        job.beat_at = None
        return False


def release(database: Database, attempts: Collection[AttemptId]) -> None:
    """Queue jobs again that this worker holds and will not finish; no death is counted against them.

    A suspect stays a suspect, and deaths that were counted before stay counted.
    """
    with database.begin() as session:
        _queue_again(session, attempts)


def release_after_device_failure(
    database: Database, worker: str, in_pass: Collection[AttemptId], *, max_attempts: int
) -> int:
    """Queue the jobs of `worker` again before it ends because a pass of its device failed; return how many it had.

    Each job in the pass becomes a suspect. If the pass had only one job, that job caused the failure, and a death is
    counted against it, whatever else the worker holds. The worker's other jobs are queued without consequence.
    """
    with database.begin() as session:
        found = session.scalars(_HELD_BY, {"worker": worker}).all()
        jobs = [job for job in _locked(session, found) if job.worker == worker]
        for job in jobs:
            if _attempt_id(job) in in_pass:
                requeue_dropped(session, job, counts=len(in_pass) == 1, max_attempts=max_attempts)
        _queue_again(session, {_attempt_id(job) for job in jobs}.difference(in_pass))
        session.execute(delete(WorkerRow).where(WorkerRow.id == worker))  # nobody is to count on it
        return len(jobs)


def cancel(session: Session, tenant_id: UUID, job_id: UUID) -> JobRow | None:
    """Cancel a job that has not ended, at once; one that has ended stays as it is. None: the tenant has no such job.

    A running attempt learns of it at its next heartbeat, and its writes are refused.
    """
    owned = select(JobRow).where(JobRow.id == job_id, JobRow.tenant_id == tenant_id).with_for_update()
    job = session.scalars(owned).one_or_none()
    if job is not None and not job.state.terminal:
        end_locked(session, job, JobState.CANCELED)
    return job


def requeue_dropped(session: Session, job: JobRow, *, counts: bool, max_attempts: int) -> bool:
    """Queue a job again, locked and running, whose worker is gone; end it if that counts too often. True: it ended."""
    job.suspect = True
    job.deaths += counts
    if job.deaths >= max_attempts:
        end_locked(session, job, JobState.FAILED, error=JobError(ErrorCode.ATTEMPTS_EXHAUSTED))
        return True
    _queue(job)
    return False


def _queue(job: JobRow) -> None:
    job.state, job.stage, job.worker, job.lease_until, job.isolated = JobState.QUEUED, None, None, None, False


def _queue_again(session: Session, attempts: Collection[AttemptId]) -> None:
    """Queue the jobs that these attempts own. Clear their heartbeats, so that no claim waits for their worker."""
    for job in _locked(session, {attempt.job_id for attempt in attempts}):
        if _attempt_id(job) in attempts:
            _queue(job)
            job.beat_at = None


def _locked(session: Session, job_ids: Collection[UUID]) -> list[JobRow]:
    """Lock those of these jobs that run."""
    ordered = select(JobRow).where(JobRow.id.in_(job_ids)).order_by(JobRow.id).with_for_update()
    return [job for job in session.scalars(ordered) if job.state == JobState.RUNNING]


def _owned(session: Session, attempt_id: AttemptId) -> JobRow:
    """Lock the job for the attempt that owns it: the fence of every late write."""
    job = session.get(JobRow, attempt_id.job_id, with_for_update=True, populate_existing=True)
    if job is None or job.attempt != attempt_id.attempt or job.state != JobState.RUNNING:
        raise LeaseLostError
    return job


def _attempt_id(job: JobRow) -> AttemptId:
    return AttemptId(job.id, job.attempt)


def end_locked(
    session: Session, job: JobRow, state: JobState, *, result: JobResult | None = None, error: JobError | None = None
) -> bool:
    """End `job`, which must be locked and not terminal, and write its usage and its webhooks. Every job ends here.

    Returns whether there is a webhook to send.
    """
    now = session.scalars(select(func.now())).one()
    job.state, job.finished_at = state, now
    job.stage = job.lease_until = None
    if error is not None:
        job.error_code, job.error_message, job.error_retryable = error.code, error.message, error.retryable
    session.flush()
    usage.record(session, job, now, device_seconds=(result.device_seconds or 0.0) if result else 0.0)
    return write_events(session, job, result)
