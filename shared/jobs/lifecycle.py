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
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import Uuid, delete, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from shared.database.engine import Database
from shared.database.tables import Job, Result, WebhookDelivery, WebhookEndpoint, Worker
from shared.domain import PROBE_PASSES, ClaimedJob, JobResult, JobState, NewJob, Stage
from shared.errors import ErrorCode, JobError, KeyTakenError, LeaseLostError
from shared.jobs import tally
from shared.presenter import present_job, timestamp

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
#: A claim looks at so many jobs more than it may take: others may take some of them meanwhile,
_SPARE = 32
#: and where they took all, it looks again, so often at most.
_LOOKS = 5

# What waits lies in lanes: a tenant's jobs of one priority, model and policy, those that were begun before and suspects
# apart. The tally says which lanes have some and from where on each begins (shared/jobs/tally.py), so no row is read
# that has left the queue. Lanes go by priority, then by how much runs of their tenant, counted in images that the
# device judges for it, then by age; of as many as may be needed the first jobs are put in one order, in which each
# counts for its tenant's next. SKIP LOCKED: workers that look at the same moment get different jobs, and none waits.
# Only what is taken is locked: a lock on all that was looked at would hide it from others, and they would find nothing
# to do.
#
# A suspect is taken alone, and may cost one more worker. It is taken at once where another is ready and has no suspect;
# where others live, but cannot go on yet, or where none does, its last worker must have been silent for so long that
# this is how it stays. It takes all slots of a worker, and counts as that; and a tenant has one under way at a time.
_CLAIM = text("""
WITH carried AS MATERIALIZED (
    SELECT tenant_id, worker, suspect,
           CASE WHEN suspect THEN greatest((SELECT slots FROM workers WHERE workers.id = worker), 1)
                WHEN stability THEN :probe_passes ELSE 1 END AS cost
    FROM running_jobs
), others AS (
    SELECT policies, state = 'ready' AND NOT EXISTS (
        SELECT FROM carried WHERE carried.worker = workers.id AND carried.suspect
    ) AS ready
    FROM workers
    WHERE role = 'analysis' AND state <> 'draining' AND (model IS NULL OR model = :model)
      AND id <> :worker AND heartbeat_at > now() - :fresh
), patience AS (
    SELECT least(:lease, CASE WHEN bool_or(ready) THEN interval '0'
                              WHEN count(*) > 0 THEN :while_others_start ELSE :while_none_lives END) AS silence
    FROM others
), lane AS MATERIALIZED (
    SELECT owner, rank, begun, suspect, model, policy, at, item, running
    FROM (
        SELECT *, sum(cost) OVER tenant AS running, bool_or(carried) OVER tenant AS suspected
        FROM (
            SELECT owner, rank, begun, suspect, model, policy, at, item, 0 AS cost, false AS carried
            FROM tally_waiting('jobs')
            UNION ALL
            SELECT tenant_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, cost, suspect FROM carried
        ) AS each WINDOW tenant AS (PARTITION BY owner)
    ) AS of_tenant
    WHERE model IN ('', :model) AND NOT (suspect AND suspected) AND (
        policy = ANY (CAST(:policies AS text[])) OR policy = '' AND owner NOT IN (
            SELECT id FROM tenants WHERE policy IS NOT NULL AND policy <> ALL (CAST(:policies AS text[]))
        )
    )
    ORDER BY rank DESC, running, at
    LIMIT :looked
), head AS (
    SELECT lane.owner, lane.rank, lane.running, lane.suspect, job.id, job.created_at, job.cost
    FROM lane CROSS JOIN LATERAL (
        SELECT id, created_at, CASE WHEN stability THEN :probe_passes ELSE 1 END AS cost FROM jobs
        WHERE state = 'queued' AND tenant_id = lane.owner AND priority = lane.rank
          AND (attempt > 0) = lane.begun AND suspect = lane.suspect
          AND coalesce(jobs.model, '') = lane.model AND coalesce(jobs.policy, '') = lane.policy
          AND (created_at, id::text) >= (lane.at, lane.item::text) AND deadline_at > now()
          AND (suspect AND beat_at > now() - (SELECT silence FROM patience)) IS NOT TRUE
          AND (failed_on IS DISTINCT FROM :worker OR NOT EXISTS (
              SELECT FROM others
              WHERE ready AND coalesce(jobs.policy, (SELECT policy FROM tenants WHERE id = lane.owner), '')
                              = ANY (array_append(others.policies, ''))
          ))
        ORDER BY tenant_id, priority, (attempt > 0), suspect,  -- as the index: to a role these do not seem to be equal
                 coalesce(jobs.model, ''), coalesce(jobs.policy, ''), created_at, id::text
        LIMIT (SELECT greatest(:most, ceil(CAST(:looked AS float) / greatest(count(*), 1)))::int FROM lane)
    ) AS job
), turn AS MATERIALIZED (
    SELECT id, place FROM (
        SELECT id, place, bool_or(suspect) OVER (ORDER BY place) AS with_suspect FROM (
            SELECT id, suspect, row_number() OVER (ORDER BY rank DESC, running + before, created_at, id) AS place FROM (
                SELECT *, coalesce(sum(cost) OVER (
                    PARTITION BY owner ORDER BY rank DESC, created_at, id
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ), 0) AS before FROM head
            ) AS of_tenant
        ) AS of_all
    ) AS in_turn
    WHERE place = 1 OR NOT with_suspect
    ORDER BY place LIMIT :looked
), next AS (
    SELECT jobs.id, turn.place FROM turn JOIN jobs ON jobs.id = turn.id
    WHERE jobs.state || '' = 'queued'
    ORDER BY turn.place
    LIMIT :most FOR UPDATE OF jobs SKIP LOCKED
), taken AS (
    UPDATE jobs
    SET state = 'running', stage = 'fetching', attempt = attempt + 1, worker = :worker, alone = false,
        lease_until = now() + :lease, beat_at = now(), started_at = coalesce(started_at, now())
    FROM next WHERE jobs.id = next.id
    RETURNING next.place, jobs.id, tenant_id, attempt, suspect, source_key, source_sha256, pictures, deadline_at,
              coalesce(jobs.policy, (SELECT tenants.policy FROM tenants WHERE tenants.id = jobs.tenant_id)) AS policy,
              stability
)
SELECT (SELECT count(*) FROM turn) AS found, taken.*
FROM (SELECT) AS one LEFT JOIN taken ON true ORDER BY place
""").columns(id=Uuid, tenant_id=Uuid)
# Of a tenant whose suspect this transaction has just taken: one claim at a time looks whether there is another.
_SUSPECTS_TURN = text("SELECT pg_advisory_xact_lock(1147761257, hashtext(CAST(:tenant AS text)))")
_OTHER_SUSPECTS = text("SELECT EXISTS (SELECT FROM running_jobs WHERE suspect AND tenant_id = :tenant AND id <> :job)")

# Whoever locks several jobs locks them in the order of their ids, or two could wait for each other. Each is found by
# its id alone: by its state too, PostgreSQL could choose an index of what is open, and read all that it once held.
_HEARTBEAT = text("""
WITH owned AS (
    SELECT job.id, beat.stage
    FROM (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:stages AS text[]))
            AS beat(id, attempt, stage) ORDER BY id
    ) AS beat
    CROSS JOIN LATERAL (SELECT id, attempt, state FROM jobs WHERE jobs.id = beat.id FOR UPDATE) AS job
    WHERE job.attempt = beat.attempt AND job.state = 'running'
)
UPDATE jobs SET lease_until = now() + :lease, beat_at = now(), stage = owned.stage
FROM owned WHERE jobs.id = owned.id
RETURNING jobs.id, jobs.attempt
""").columns(id=Uuid)
_DROPPED = text("SELECT id FROM running_jobs WHERE lease_until < now() LIMIT :most").columns(id=Uuid)
_WANT_POLICY = text("""
SELECT job.id FROM tally_waiting('jobs') AS lane JOIN tenants ON tenants.id = lane.owner
CROSS JOIN LATERAL (
    SELECT id FROM jobs
    WHERE state = 'queued' AND tenant_id = lane.owner AND priority = lane.rank
      AND (attempt > 0) = lane.begun AND suspect = lane.suspect
      AND coalesce(jobs.model, '') = lane.model AND coalesce(jobs.policy, '') = lane.policy
      AND (created_at, id::text) >= (lane.at, lane.item::text) AND created_at < now() - :waited
    ORDER BY tenant_id, priority, (attempt > 0), suspect, coalesce(jobs.model, ''), coalesce(jobs.policy, ''),
             created_at, id::text
    LIMIT :most
) AS job
WHERE lane.model = :model AND coalesce(nullif(lane.policy, ''), tenants.policy) = :policy
LIMIT :most
""").columns(id=Uuid)
# Whether another worker can be expected to take a job that this one could not judge.
_ANOTHER_READY = text("""
SELECT EXISTS (
    SELECT FROM workers
    WHERE role = 'analysis' AND state = 'ready' AND model = :model AND id <> :worker AND heartbeat_at > now() - :fresh
      AND :policy = ANY (array_append(policies, ''))
)
""")
_CARRIED_BY = text("SELECT id FROM running_jobs WHERE worker = :worker").columns(id=Uuid)


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
    """Jobs that wait now."""


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
    """Take the next job; as `claim_several`."""
    jobs = claim_several(database, worker=worker, model=model, lease=lease, policies=policies, most=1)
    return jobs[0] if jobs else None


def claim_several(
    database: Database, *, worker: str, model: str, lease: timedelta, policies: Collection[str] = (), most: int
) -> list[ClaimedJob]:
    """Take the next jobs, `most` at most: priority, then fairness between tenants, then age.

    The attempts are committed before this returns, so before any byte of an image is touched. A suspect comes alone,
    and who is given one must see to it that it runs alone. A job whose policy is not among `policies` is left.
    """
    names = _claim_names(worker, model, lease, policies, most)
    for _ in range(_LOOKS):
        with database.begin() as session:
            rows = session.execute(_CLAIM, names).all()
            jobs = [ClaimedJob(*row[2:]) for row in rows if row.id is not None]
            if jobs and jobs[0].suspect and _has_another_suspect(session, jobs[0]):
                session.rollback()
                jobs = []
        if jobs or not rows[0].found:
            return jobs
    return []


def anything_waits(
    database: Database, *, worker: str, model: str, lease: timedelta, policies: Collection[str] = ()
) -> bool:
    """Whether `claim` would find a job: asked by the very same statement, which is then undone."""
    with database.begin() as session:
        found = session.execute(_CLAIM, _claim_names(worker, model, lease, policies, 1)).all()
        session.rollback()
    return found[0].id is not None


def _has_another_suspect(session: Session, taken: ClaimedJob) -> bool:
    """Whether a suspect of the same tenant is under way, as of now: another claim may have been a moment earlier."""
    session.execute(_SUSPECTS_TURN, {"tenant": taken.tenant_id})
    return bool(session.scalar(_OTHER_SUSPECTS, {"tenant": taken.tenant_id, "job": taken.id}))


def _claim_names(worker: str, model: str, lease: timedelta, policies: Collection[str], most: int) -> dict[str, object]:
    return {
        "most": most,
        "looked": most + _SPARE,
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


def try_elsewhere(
    database: Database, job_id: UUID, attempt: int, error: JobError, *, model: str, policy: str | None
) -> bool:
    """Queue a job again that the device of its worker cannot judge, for another worker with this model and policy.

    Where another could not judge it either, or there is none, the job fails with `error`. Returns and raises as `fail`.
    """
    with database.begin() as session:
        job = _owned(session, job_id, attempt)
        others = {"model": model, "policy": policy or "", "worker": job.worker, "fresh": _FRESH}
        if job.failed_on not in (None, job.worker) or not session.scalar(_ANOTHER_READY, others):
            return _end(session, job, JobState.FAILED, error=error)
        job.failed_on = job.worker
        _queue(job)
        job.beat_at = None
        return False


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
        found = session.scalars(_CARRIED_BY, {"worker": worker}).all()
        jobs = [job for job in _locked(session, found) if job.worker == worker]
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
        return SweepReport(released, exhausted, expired, tally.totals(session).jobs_waiting)


def fail_unserved(database: Database, model: str | None, policy: str, *, waited: timedelta) -> int:
    """End jobs that have waited for so long for a worker with their policy; return how many, some hundreds at most."""
    minutes = waited.total_seconds() / 60
    error = JobError(
        ErrorCode.MODEL_UNAVAILABLE,
        f"No worker has had the policy {policy!r} for {minutes:.0f} minutes. Ask the operator, or name another.",
    )
    wanted = {"model": model or "", "policy": policy, "waited": waited, "most": _SWEEP_BATCH}
    with database.begin() as session:
        found = session.scalars(_WANT_POLICY, wanted).all()
        locked = session.scalars(select(Job).where(Job.id.in_(found)).with_for_update(skip_locked=True)).all()
        waiting = [job for job in locked if job.state == JobState.QUEUED]
        return len(_each(session, waiting, lambda job: _end(session, job, JobState.FAILED, error=error)))


def _expire_overdue(session: Session) -> int:
    overdue = (
        select(Job)
        .where(Job.state.in_([JobState.QUEUED, JobState.RUNNING]), Job.deadline_at <= func.now())
        .order_by(Job.deadline_at)  # by the index of it, however little PostgreSQL knows of how many are overdue
        .limit(_SWEEP_BATCH)
        .with_for_update(skip_locked=True)
    )

    def end(job: Job) -> None:
        _end(session, job, JobState.EXPIRED, error=JobError(ErrorCode.DEADLINE_EXCEEDED))

    return len(_each(session, session.scalars(overdue).all(), end))


def _release_dropped(session: Session, max_attempts: int) -> tuple[int, int]:
    found = session.scalars(_DROPPED, {"most": _SWEEP_BATCH}).all()
    dropped = select(Job).where(Job.id.in_(found), Job.lease_until < func.now()).with_for_update(skip_locked=True)

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
            #: PostgreSQL refused to return, end or expire a job whose time was over. Check that the schema is this
            #: release's (`distildire db upgrade`); otherwise report the traceback.
            _log.exception("job_not_swept", job_id=str(job_id))
    return moved


def _drop(session: Session, job: Job, *, counts: bool, max_attempts: int) -> bool:
    """Queue a job again, locked and running, whose worker is gone; end it if that counts too often. True: it ended."""
    job.suspect = True
    job.deaths += counts
    if job.deaths >= max_attempts:
        _end(session, job, JobState.FAILED, error=JobError(ErrorCode.ATTEMPTS_EXHAUSTED))
        return True
    _queue(job)
    return False


def _queue(job: Job) -> None:
    job.state, job.stage, job.worker, job.lease_until, job.alone = JobState.QUEUED, None, None, None, False


def _queue_again(session: Session, fences: Collection[tuple[UUID, int]]) -> None:
    """Queue what these attempts own; with no sign of life, so that nobody waits for the worker to come back."""
    for job in _locked(session, {job_id for job_id, _ in fences}):
        if (job.id, job.attempt) in fences:
            _queue(job)
            job.beat_at = None


def _locked(session: Session, job_ids: Collection[UUID]) -> list[Job]:
    """Lock those of these jobs that run."""
    ordered = select(Job).where(Job.id.in_(job_ids)).order_by(Job.id).with_for_update()
    return [job for job in session.scalars(ordered) if job.state == JobState.RUNNING]


def _owned(session: Session, job_id: UUID, attempt: int) -> Job:
    """Lock the job for the attempt that owns it: the fence of every late write."""
    job = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if job is None or job.attempt != attempt or job.state != JobState.RUNNING:
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
        select(WebhookEndpoint.id).where(
            WebhookEndpoint.tenant_id == job.tenant_id,
            WebhookEndpoint.disabled_at.is_(None),
            WebhookEndpoint.event_types.any_() == event_type,
        )
    ).all()  # no lock: what is written for one that is disabled meanwhile is given up like all that waits for it
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
        "timestamp": timestamp(job.finished_at),
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
