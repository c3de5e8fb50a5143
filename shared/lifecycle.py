"""The life of a job: every statement that moves one, and nothing else.

The truth is here, in PostgreSQL. A job is owned by the attempt that claimed it, for as long as its lease is
extended; whatever is written for a job is fenced by `(id, attempt, state = 'running')`, so an attempt that lost
its lease writes nothing. A job ends once: result, terminal state and the webhooks to send are one transaction.

When a worker dies, nobody knows which of its jobs did it. None of them gets a death counted; each becomes a *suspect*,
which next runs in a process that carries nothing else. Only the death of such a process counts (docs/adr/0006).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import Uuid, delete, func, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from shared.database import Database
from shared.errors import ErrorCode, JobError, KeyTakenError, LeaseLostError
from shared.jobs import PROBE_PASSES, ClaimedJob, JobResult, JobState, NewJob, Stage
from shared.presenter import present_job, timestamp
from shared.tables import Job, Result, WebhookDelivery, WebhookEndpoint, Worker

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")

#: Held while one process sweeps, so that two never do the same work. Any constant of the project's own.
_SWEEP_LOCK = 0x44697265
#: A sweep ends so many jobs in one transaction at most; the next takes the rest.
_SWEEP_BATCH = 500
#: Holds a tenant to one job for each idempotency key.
_KEY_INDEX = "jobs_idempotency"
#: A worker that was not heard of for so long is not counted on; it beats every second.
_FRESH = timedelta(seconds=3)
#: How long a suspect waits at most for another worker to be ready, so that three deaths take a minute; and
#: for one to be seen at all.
_WHILE_OTHERS_START, _WHILE_NONE_LIVES = timedelta(seconds=20), timedelta(seconds=8)
#: A sweep counts so many waiting jobs at most: enough to know how many wake-ups are worth sending.
MOST_COUNTED = 64

# Tenants in the order of their most urgent, then oldest job, the one with the least running first, counted in images
# that the device judges for it; of the first tenant that has one, the next job. SKIP LOCKED: two workers that look at
# the same moment get different jobs, and neither waits. Only the job that is taken is locked: a lock on each tenant's
# next would hide it from all who look meanwhile, and they would find nothing to do.
#
# A suspect may cost one more worker. It is taken at once where another is ready and has no suspect; where others live,
# but cannot go on yet, or where none does, its last worker must have been silent for so long that this is how it stays.
_CLAIM = text("""
WITH others AS (
    SELECT state = 'ready' AND NOT EXISTS (
        SELECT FROM jobs WHERE jobs.worker = workers.id AND jobs.state = 'running' AND jobs.suspect
    ) AS ready
    FROM workers
    WHERE role = 'analysis' AND state <> 'draining' AND (model IS NULL OR model = :model)
      AND id <> :worker AND heartbeat_at > now() - :fresh
), patience AS (
    SELECT least(:lease, CASE WHEN bool_or(ready) THEN interval '0'
                              WHEN count(*) > 0 THEN :while_others_start ELSE :while_none_lives END) AS silence
    FROM others
), elsewhere AS (
    SELECT array_agg(name) AS of_all, array_agg(name) FILTER (WHERE model = :model) AS of_this_model
    FROM workers CROSS JOIN unnest(policies) AS name
    WHERE role = 'analysis' AND state = 'ready' AND id <> :worker AND heartbeat_at > now() - :fresh
      AND name <> ALL(CAST(:policies AS text[]))
), busy AS (
    SELECT tenant_id, sum(CASE WHEN stability THEN :probe_passes ELSE 1 END) AS running
    FROM jobs WHERE state = 'running' GROUP BY tenant_id
), next AS (
    SELECT job.id
    FROM (
        SELECT tenants.id AS tenant_id, tenants.policy, coalesce(busy.running, 0) AS running,
               head.priority, head.created_at, head.id
        FROM tenants
        CROSS JOIN LATERAL (
            SELECT id, priority, created_at FROM jobs
            WHERE tenant_id = tenants.id AND state = 'queued' AND deadline_at > now()
              AND (model IS NULL OR model = :model)
              AND (coalesce(jobs.policy, tenants.policy) = ANY (
                  (SELECT CASE WHEN jobs.model IS NULL THEN of_all ELSE of_this_model END FROM elsewhere)::text[]
              )) IS NOT TRUE
              AND (suspect AND beat_at > now() - (SELECT silence FROM patience)) IS NOT TRUE
            ORDER BY priority DESC, created_at, id
            LIMIT 1
        ) AS head
        LEFT JOIN busy ON busy.tenant_id = tenants.id
        ORDER BY head.priority DESC, running, head.created_at, head.id
    ) AS turn
    CROSS JOIN LATERAL (
        SELECT id FROM jobs
        WHERE tenant_id = turn.tenant_id AND state = 'queued' AND deadline_at > now()
          AND (model IS NULL OR model = :model)
          AND (coalesce(jobs.policy, turn.policy) = ANY (
              (SELECT CASE WHEN jobs.model IS NULL THEN of_all ELSE of_this_model END FROM elsewhere)::text[]
          )) IS NOT TRUE
          AND (suspect AND beat_at > now() - (SELECT silence FROM patience)) IS NOT TRUE
        ORDER BY priority DESC, created_at, id
        LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS job
    ORDER BY turn.priority DESC, turn.running, turn.created_at, turn.id
    LIMIT 1
)
UPDATE jobs
SET state = 'running', stage = 'fetching', attempt = attempt + 1, worker = :worker, alone = false,
    lease_until = now() + :lease, beat_at = now(), started_at = coalesce(started_at, now())
WHERE id = (SELECT id FROM next) AND state = 'queued'
RETURNING id, tenant_id, attempt, suspect, source_key, source_sha256, pictures, deadline_at,
          coalesce(jobs.policy, (SELECT tenants.policy FROM tenants WHERE tenants.id = jobs.tenant_id)) AS policy,
          stability
""").columns(id=Uuid, tenant_id=Uuid)

# Whoever locks several jobs locks them in the order of their ids, or two could wait for each other.
_HEARTBEAT = text("""
WITH owned AS (
    SELECT jobs.id, beat.stage
    FROM jobs
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:stages AS text[])) AS beat(id, attempt, stage)
      ON jobs.id = beat.id AND jobs.attempt = beat.attempt AND jobs.state = 'running'
    ORDER BY jobs.id FOR UPDATE OF jobs
)
UPDATE jobs SET lease_until = now() + :lease, beat_at = now(), stage = owned.stage
FROM owned WHERE jobs.id = owned.id
RETURNING jobs.id, jobs.attempt
""").columns(id=Uuid)


@dataclass(frozen=True)
class SweepReport:
    """What one sweep found."""

    released: int = 0
    """Jobs whose lease had ended, back in the queue."""
    exhausted: int = 0
    """Jobs whose worker died too often, failed."""
    expired: int = 0
    """Jobs past their deadline."""
    queued: int = 0
    """Jobs that wait now, counted up to `MOST_COUNTED`."""


def create(session: Session, new: NewJob, *, deadline: timedelta) -> Job:
    """Write an accepted job; it exists for workers when the caller's transaction commits.

    Raises:
        KeyTakenError: the tenant has a job with this idempotency key; the transaction is of no more use.

    """
    job = Job(
        id=new.id,
        tenant_id=new.tenant_id,
        deadline_at=func.now() + deadline,
        priority=new.priority,
        model=new.model,
        policy=new.policy,
        stability=new.stability,
        pictures=list(new.pictures),
        client_metadata=new.metadata,
        source_key=new.source_key,
        source_sha256=new.source_sha256,
        source_bytes=new.source_bytes,
        media_type=new.media_type,
        idempotency_key=new.idempotency_key,
        replay_of=new.replay_of,
        suspect=new.replay_of is not None,  # what ended a process once may do so again: not in others' company
    )
    session.add(job)
    try:
        session.flush()  # waits for another that writes the same key
    except IntegrityError as error:
        if _KEY_INDEX in str(error.orig):
            raise KeyTakenError from error
        raise
    session.refresh(job)
    return job


def claim(
    database: Database, *, worker: str, model: str, lease: timedelta, policies: Collection[str] = ()
) -> ClaimedJob | None:
    """Take the next job: priority, then fairness between tenants, then age. None where nothing waits.

    The attempt is committed before this returns, so before any byte of the image is touched. Who is given a suspect
    must see to it that it runs alone. A job whose policy is not among `policies` is left to a worker that has it, if
    one that may take it is ready.
    """
    with database.begin() as session:
        row = session.execute(_CLAIM, _claim_names(worker, model, lease, policies)).one_or_none()
    if row is None:
        return None
    return ClaimedJob(*row)


def anything_waits(
    database: Database, *, worker: str, model: str, lease: timedelta, policies: Collection[str] = ()
) -> bool:
    """Whether `claim` would find a job: asked by the very same statement, which is then undone."""
    with database.begin() as session:
        found = session.execute(_CLAIM, _claim_names(worker, model, lease, policies)).one_or_none()
        session.rollback()
    return found is not None


def _claim_names(worker: str, model: str, lease: timedelta, policies: Collection[str]) -> dict[str, object]:
    return {
        "worker": worker,
        "model": model,
        "lease": lease,
        "policies": list(policies),
        "probe_passes": PROBE_PASSES,
        "fresh": _FRESH,
        "while_others_start": _WHILE_OTHERS_START,
        "while_none_lives": _WHILE_NONE_LIVES,
    }


def begin_alone(database: Database, job_id: UUID, attempt: int) -> None:
    """Note that the process carries this job and no other: from now on its death is the job's doing.

    Raises:
        LeaseLostError: the job is no longer this attempt's.

    """
    with database.begin() as session:
        _owned(session, job_id, attempt).alone = True


def heartbeat(
    database: Database, stages: Mapping[tuple[UUID, int], Stage], *, lease: timedelta
) -> set[tuple[UUID, int]]:
    """Extend the leases of these attempts and note their stages; return those that are still owned.

    An attempt that is missing from the answer was canceled, expired or given to another worker.
    """
    if not stages:
        return set()
    fences = list(stages)
    beat = {
        "ids": [str(job_id) for job_id, _ in fences],
        "attempts": [attempt for _, attempt in fences],
        "stages": [str(stages[fence]) for fence in fences],
        "lease": lease,
    }
    with database.begin() as session:
        session.execute(text("SET LOCAL synchronous_commit = off"))  # a lost heartbeat is only an earlier lease
        return {(row.id, row.attempt) for row in session.execute(_HEARTBEAT, beat)}


def succeed(database: Database, job_id: UUID, attempt: int, result: JobResult) -> bool:
    """End a job with its verdict; return whether a webhook is to be sent now.

    Raises:
        LeaseLostError: the job is no longer this attempt's; nothing was written.

    """
    with database.begin() as session:
        job = _owned(session, job_id, attempt)
        row = _result_row(job, result)
        session.add(row)
        return _end(session, job, JobState.SUCCEEDED, result=row)


def fail(database: Database, job_id: UUID, attempt: int, error: JobError) -> bool:
    """End a job with its error; return and raise as `succeed` does."""
    with database.begin() as session:
        return _end(session, _owned(session, job_id, attempt), JobState.FAILED, error=error)


def give_back(database: Database, fences: Collection[tuple[UUID, int]]) -> None:
    """Queue jobs again that this worker holds and will not finish; nothing counts against them.

    A suspect stays one, and what was counted stays counted.
    """
    with database.begin() as session:
        _queue_again(session, fences)


def surrender(database: Database, worker: str, in_pass: Collection[tuple[UUID, int]], *, max_attempts: int) -> int:
    """Account for the end of `worker` by a pass of its device, of which it knows beforehand; return what it carried.

    Of the jobs in the pass each is a suspect; where there is but one, it is known which did it, and the death counts,
    whatever else the worker carries. All others that it carries had no part in it.
    """
    with database.begin() as session:
        carried = select(Job).where(Job.state == JobState.RUNNING, Job.worker == worker)
        jobs = session.scalars(carried.order_by(Job.id).with_for_update()).all()
        for job in jobs:
            if (job.id, job.attempt) in in_pass:
                _drop(session, job, counts=len(in_pass) == 1, max_attempts=max_attempts)
        _queue_again(session, {(job.id, job.attempt) for job in jobs}.difference(in_pass))
        session.execute(delete(Worker).where(Worker.id == worker))  # nobody is to count on it
        return len(jobs)


def cancel(session: Session, tenant_id: UUID, job_id: UUID) -> Job | None:
    """Cancel a job that has not ended, at once; one that has ended stays as it is. None: the tenant has no such job.

    A running attempt learns of it at its next heartbeat, and its writes are refused.
    """
    owned = select(Job).where(Job.id == job_id, Job.tenant_id == tenant_id).with_for_update()
    job = session.scalars(owned).one_or_none()
    if job is not None and not JobState(job.state).terminal:
        _end(session, job, JobState.CANCELED)
    return job


def sweep(database: Database, *, max_attempts: int) -> SweepReport | None:
    """End what is overdue and queue again what its worker dropped. None: another process is at it."""
    with database.begin() as session:
        if not session.scalar(select(func.pg_try_advisory_xact_lock(_SWEEP_LOCK))):
            return None
        expired = _expire_overdue(session)
        released, exhausted = _release_dropped(session, max_attempts)
        waiting = select(Job.id).where(Job.state == JobState.QUEUED).limit(MOST_COUNTED).subquery()
        queued = session.scalar(select(func.count()).select_from(waiting)) or 0
        return SweepReport(released, exhausted, expired, queued)


def _expire_overdue(session: Session) -> int:
    overdue = (
        select(Job)
        .where(Job.state.in_([JobState.QUEUED, JobState.RUNNING]), Job.deadline_at <= func.now())
        .limit(_SWEEP_BATCH)
        .with_for_update(skip_locked=True)
    )

    def end(job: Job) -> None:
        _end(session, job, JobState.EXPIRED, error=JobError(ErrorCode.DEADLINE_EXCEEDED))

    return len(_each(session, session.scalars(overdue).all(), end))


def _release_dropped(session: Session, max_attempts: int) -> tuple[int, int]:
    dropped = (
        select(Job)
        .where(Job.state == JobState.RUNNING, Job.lease_until < func.now())
        .limit(_SWEEP_BATCH)
        .with_for_update(skip_locked=True)
    )

    def drop(job: Job) -> bool:
        return _drop(session, job, counts=job.alone, max_attempts=max_attempts)

    ended = _each(session, session.scalars(dropped).all(), drop)
    return ended.count(False), ended.count(True)


def _each(session: Session, jobs: Sequence[Job], move: Callable[[Job], _T]) -> list[_T]:
    """Move each job; return what came of those that could be moved.

    One that cannot be, for a reason that nobody foresaw, must not keep all others from being swept, now and for ever.
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
            _log.exception("job_not_swept", job_id=str(job_id))
    return moved


def _drop(session: Session, job: Job, *, counts: bool, max_attempts: int) -> bool:
    """Queue a job again, locked and running, whose worker is gone; end it if that counts too often. True: it ended."""
    job.suspect = True
    job.deaths += counts
    if job.deaths >= max_attempts:
        _end(session, job, JobState.FAILED, error=JobError(ErrorCode.ATTEMPTS_EXHAUSTED))
        return True
    job.state, job.stage, job.worker, job.lease_until, job.alone = JobState.QUEUED, None, None, None, False
    return False


def _queue_again(session: Session, fences: Collection[tuple[UUID, int]]) -> None:
    """Queue what these attempts own; with no sign of life, so that nobody waits for the worker to come back."""
    for job_id, attempt in sorted(fences):
        session.execute(
            update(Job)
            .where(Job.id == job_id, Job.attempt == attempt, Job.state == JobState.RUNNING)
            .values(state=JobState.QUEUED, stage=None, worker=None, lease_until=None, beat_at=None, alone=False)
        )


def _owned(session: Session, job_id: UUID, attempt: int) -> Job:
    """Lock the job for the attempt that owns it: the fence of every late write."""
    job = session.scalars(
        select(Job).where(Job.id == job_id, Job.attempt == attempt, Job.state == JobState.RUNNING).with_for_update()
    ).one_or_none()
    if job is None:
        raise LeaseLostError
    return job


def _end(
    session: Session, job: Job, state: JobState, *, result: Result | None = None, error: JobError | None = None
) -> bool:
    """Make `job`, locked and not terminal, terminal; write the webhooks that tell of it. The only way to end a job.

    Returns whether there is such a webhook.
    """
    now = session.scalar(select(func.now()))
    job.state, job.finished_at = state, now
    job.stage = job.lease_until = None
    if error is not None:
        job.error_code, job.error_message, job.error_retryable = error.code, error.message, error.retryable
    session.flush()
    return _tell(session, job, result)


def _tell(session: Session, job: Job, result: Result | None) -> bool:
    event_type = f"job.{job.state}"
    endpoints = session.scalars(
        select(WebhookEndpoint.id)
        .where(
            WebhookEndpoint.tenant_id == job.tenant_id,
            WebhookEndpoint.disabled_at.is_(None),
            WebhookEndpoint.event_types.any_() == event_type,
        )
        .with_for_update(read=True)  # waits for one that is being disabled, or its last webhook would stay pending
    ).all()
    if not endpoints:
        return False
    body = _event(event_type, job, result)
    session.add_all(
        WebhookDelivery(
            tenant_id=job.tenant_id, endpoint_id=endpoint_id, job_id=job.id, event_type=event_type, body=body
        )
        for endpoint_id in endpoints
    )
    return True


def _event(event_type: str, job: Job, result: Result | None) -> str:
    """Return a message's body: these very characters are signed and sent, at each try the same."""
    event = {
        "type": event_type,
        "timestamp": timestamp(job.finished_at or datetime.now(UTC)),
        "data": present_job(job, result),
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def _result_row(job: Job, result: JobResult) -> Result:
    values: dict[str, Any] = {
        name: value
        for name, value in vars(result).items()
        if name not in ("model", "policy", "stability", "artifacts", "caveats")
    }
    return Result(
        job_id=job.id,
        attempt=job.attempt,
        caveats=list(result.caveats),
        policy=asdict(result.policy) if result.policy else None,
        stability=asdict(result.stability) if result.stability else None,
        model_name=result.model.name,
        weights_sha256=result.model.weights_sha256,
        demonstration=result.model.demonstration,
        device=result.model.device,
        precision=result.model.precision,
        artifacts={name: asdict(artifact) for name, artifact in result.artifacts.items()},
        **values,
    )
