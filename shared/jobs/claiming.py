"""Claims: they choose the jobs that a worker runs next, and give each job to one worker only."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, Uuid, text
from sqlalchemy.orm import Session

from shared.database.engine import Database
from shared.database.statements import statement
from shared.domain import PROBE_PASSES, ClaimedJob
from shared.jobs.options import from_columns

#: A worker whose last heartbeat is older than this is not expected to take jobs. A worker sends one every second.
FRESH = timedelta(seconds=3)
#: How long a suspect waits at most: first, while other workers are alive but none is ready, so that three deaths take
#: a minute; second, while no other worker is alive.
_WHILE_OTHERS_START, _WHILE_NONE_LIVES = timedelta(seconds=20), timedelta(seconds=8)
#: A claim looks at this many jobs more than it may take, because other workers may take some of them meanwhile.
_SPARE = 32
#: If other workers took all of them, the claim looks again. It looks this often at most.
_LOOKS = 5

_CLAIM = statement("shared.jobs", "claim").columns(id=Uuid, tenant_id=Uuid)
_ANYTHING_WAITS = statement("shared.jobs", "anything_waits")
# For a tenant whose suspect this transaction has just taken: one claim at a time checks whether another suspect runs.
_SUSPECTS_TURN = text("SELECT pg_advisory_xact_lock(1147761257, hashtext(CAST(:tenant AS text)))")
_OTHER_SUSPECTS = text("SELECT EXISTS (SELECT FROM running_jobs WHERE suspect AND tenant_id = :tenant AND id <> :job)")


def claim(
    database: Database, *, worker: str, model: str, lease: timedelta, policies: Collection[str] = ()
) -> ClaimedJob | None:
    """Take the next job; see `claim_several`."""
    jobs = claim_several(database, worker=worker, model=model, lease=lease, policies=policies, most=1)
    return jobs[0] if jobs else None


def claim_several(
    database: Database, *, worker: str, model: str, lease: timedelta, policies: Collection[str] = (), most: int
) -> list[ClaimedJob]:
    """Take the next jobs, `most` at most, by priority, then fairness between tenants, then age.

    The attempts are committed before this returns, that is before a worker reads any byte of an image. A suspect is
    returned as the only job, and the caller must run it isolated. A job whose policy is not among `policies` is not
    taken.
    """
    for _ in range(_LOOKS):
        with database.begin() as session:
            jobs, found = take(session, worker=worker, model=model, lease=lease, policies=policies, most=most)
            if jobs and jobs[0].suspect and _has_another_suspect(session, jobs[0]):
                session.rollback()
                jobs = []
        if jobs or not found:
            return jobs
    return []


def take(
    session: Session, *, worker: str, model: str, lease: timedelta, policies: Collection[str] = (), most: int = 1
) -> tuple[list[ClaimedJob], int]:
    """Take the next jobs in the caller's transaction; return them, and how many were found before others took some.

    `claim_several` is the way for workers: it also checks for another suspect, and looks again.
    """
    rows = session.execute(_CLAIM, _claim_names(worker, model, lease, policies, most)).all()
    return [_claimed(row) for row in rows if row.id is not None], rows[0].found


def anything_waits(
    database: Database, *, worker: str, model: str, lease: timedelta, policies: Collection[str] = ()
) -> bool:
    """Whether `claim` would find a job. This only reads, so it counts jobs that another worker is about to take."""
    with database.begin() as session:
        return bool(session.scalar(_ANYTHING_WAITS, _claim_names(worker, model, lease, policies, 1)))


def _claimed(row: Row[Any]) -> ClaimedJob:
    return ClaimedJob(
        id=row.id,
        tenant_id=row.tenant_id,
        attempt=row.attempt,
        suspect=row.suspect,
        source_key=row.source_key,
        source_sha256=row.source_sha256,
        deadline_at=row.deadline_at,
        options=from_columns(row),
    )


def _has_another_suspect(session: Session, taken: ClaimedJob) -> bool:
    """Whether another suspect of the same tenant runs now: another claim may have taken it a moment ago."""
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
        "fresh": FRESH,
        "while_others_start": _WHILE_OTHERS_START,
        "while_none_lives": _WHILE_NONE_LIVES,
    }
