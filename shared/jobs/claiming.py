"""Which jobs a worker takes next, and that each is taken once."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, Uuid, text
from sqlalchemy.orm import Session

from shared.database.engine import Database
from shared.domain import PROBE_PASSES, ClaimedJob
from shared.jobs.options import from_columns

#: A worker that was not heard of for so long is not counted on; it beats every second.
FRESH = timedelta(seconds=3)
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
    RETURNING next.place, jobs.id, tenant_id, attempt, suspect, source_key, source_sha256, deadline_at,
              model, stability, pictures, metadata AS client_metadata,
              coalesce(jobs.policy, (SELECT tenants.policy FROM tenants WHERE tenants.id = jobs.tenant_id)) AS policy
)
SELECT (SELECT count(*) FROM turn) AS found, taken.*
FROM (SELECT) AS one LEFT JOIN taken ON true ORDER BY place
""").columns(id=Uuid, tenant_id=Uuid)
# Of a tenant whose suspect this transaction has just taken: one claim at a time looks whether there is another.
_SUSPECTS_TURN = text("SELECT pg_advisory_xact_lock(1147761257, hashtext(CAST(:tenant AS text)))")
_OTHER_SUSPECTS = text("SELECT EXISTS (SELECT FROM running_jobs WHERE suspect AND tenant_id = :tenant AND id <> :job)")


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
            jobs = [_claimed(row) for row in rows if row.id is not None]
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
        "fresh": FRESH,
        "while_others_start": _WHILE_OTHERS_START,
        "while_none_lives": _WHILE_NONE_LIVES,
    }
