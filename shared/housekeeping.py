"""What goes, and when: jobs that are deleted or old, with their bytes, and bytes that no job refers to.

A job's row goes first, and in the same transaction it is written down that its bytes must follow. So whoever dies in
between leaves neither a row whose pictures are missing nor bytes of which nobody knows: they are erased by the next
who looks. What never had a row, or lost it before it was written down, is found by walking through the bucket.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import Uuid, delete, select, text
from sqlalchemy.orm import Session

from shared.database import Database
from shared.errors import StoreUnavailableError
from shared.jobs import JobState
from shared.object_store import ObjectStore, job_prefix
from shared.tables import Erasure, Job, Result, Tenant

#: Longer than any request or attempt takes from its first byte in the store to its commit.
GRACE = timedelta(hours=24)
#: What is not erased by then, because its process died or the store was away, is tried again.
_RETRY = timedelta(minutes=1)
#: Between the end of one walk through the bucket and the next.
_REST = timedelta(hours=6)
_PAGE = 1_000

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
#: The keys that `shared/object_store.py` makes. Whatever else lies in the bucket is somebody else's.
_OURS = re.compile(rf"(?P<tenant>{_UUID})/(?P<job>{_UUID})/(?:source|[0-9]+/[a-z_]+\.png)")

# Of each tenant the oldest first. A webhook that still waits for its receiver keeps its job.
_DELETE_OLD = text("""
WITH old AS (
    SELECT due.id FROM tenants
    CROSS JOIN LATERAL (
        SELECT id FROM jobs
        WHERE tenant_id = tenants.id
          AND finished_at < now() - make_interval(days => coalesce(tenants.retention_days, CAST(:days AS int)))
          AND NOT EXISTS (SELECT FROM webhook_deliveries WHERE job_id = jobs.id AND state = 'pending')
        ORDER BY finished_at LIMIT :most FOR UPDATE SKIP LOCKED
    ) AS due
    LIMIT :most
), gone AS (
    DELETE FROM jobs WHERE id IN (SELECT id FROM old) RETURNING id, tenant_id
)
INSERT INTO erasures (job_id, tenant_id) SELECT id, tenant_id FROM gone RETURNING job_id
""")

_CLAIM_ERASURE = text("""
UPDATE erasures SET due_at = now() + :retry
WHERE job_id = (SELECT job_id FROM erasures WHERE due_at <= now() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING tenant_id, job_id
""").columns(tenant_id=Uuid, job_id=Uuid)

_TAKE_PAGE = text("""
INSERT INTO bucket_walk (next_at) VALUES (now() + :retry)
ON CONFLICT ("only") DO UPDATE SET next_at = now() + :retry WHERE bucket_walk.next_at <= now()
RETURNING after_key
""")
_END_PAGE = text("UPDATE bucket_walk SET after_key = :after, next_at = now() + :rest")


@dataclass(frozen=True)
class Walked:
    """One page of the bucket."""

    objects: int
    removed: int
    kept: int
    """Objects that nobody refers to and that the store refused to delete."""


def delete_job(session: Session, tenant_id: UUID, job_id: UUID) -> Job | None:
    """Delete a job that has ended, and write down that its bytes must go; one that has not ended stays.

    Returns the job as it is or was; None where the tenant has none of this id.
    """
    owned = select(Job).where(Job.id == job_id, Job.tenant_id == tenant_id).with_for_update()
    job = session.scalars(owned).one_or_none()
    if job is not None and JobState(job.state).terminal:
        session.add(Erasure(job_id=job.id, tenant_id=job.tenant_id))
        session.execute(delete(Job).where(Job.id == job.id))
    return job


def delete_old(database: Database, *, days: int | None, most: int = 100) -> int:
    """Delete up to `most` jobs that ended longer ago than their tenant keeps them, by default `days`; return how many.

    None keeps them for ever. Any number of processes may call this: each takes other jobs.
    """
    with database.begin() as session:
        return len(session.execute(_DELETE_OLD, {"days": days, "most": most}).all())


def erase_next(database: Database, store: ObjectStore) -> bool:
    """Erase the bytes of the deleted job that has waited for longest; return whether there was one.

    Raises:
        StoreUnavailableError: its bytes could not be erased; its turn comes again in a minute.

    """
    with database.begin() as session:
        due = session.execute(_CLAIM_ERASURE, {"retry": _RETRY}).one_or_none()
    if due is None:
        return False
    erase(database, store, due.tenant_id, due.job_id)
    return True


def erase(database: Database, store: ObjectStore, tenant_id: UUID, job_id: UUID) -> None:
    """Delete all bytes of a job whose row is gone, whichever attempt stored them; then the note that they must go.

    Raises:
        StoreUnavailableError, DatabaseUnavailableError: the note is still there.

    """
    if kept := store.delete_all(store.keys(job_prefix(tenant_id, job_id))):
        raise StoreUnavailableError(f"The object store refused to delete {kept[0]!r} and {len(kept) - 1} others.")
    with database.begin() as session:
        session.execute(delete(Erasure).where(Erasure.job_id == job_id))


def collect_orphans(database: Database, store: ObjectStore, *, grace: timedelta = GRACE) -> Walked | None:
    """Walk through one page of the bucket and delete what no row refers to and is older than `grace`.

    None: another process is at it, or the last walk ended a short while ago. A page whose process dies is taken again.

    Raises:
        StoreUnavailableError: the store is away; the walk goes on where it was.

    """
    with database.begin() as session:
        after = session.scalar(_TAKE_PAGE, {"retry": _RETRY})
    if after is None:
        return None
    page, rest_after = store.page(after, _PAGE)
    written_before = datetime.now(UTC) - grace
    orphans = find_orphans(database, [key for key, written in page.items() if written < written_before])
    kept = store.delete_all(orphans)
    rest = _REST if rest_after is None else timedelta()
    with database.begin() as session:
        session.execute(_END_PAGE, {"after": rest_after or "", "rest": rest})
    return Walked(len(page), len(orphans) - len(kept), len(kept))


def find_orphans(database: Database, keys: Iterable[str]) -> list[str]:
    """Return those of these keys that are ours and that no job refers to.

    All that lies below a job that has not ended may still be committed; what one that has ended refers to is settled.
    What belongs to a tenant that this database does not know is another installation's in the same bucket.
    """
    owners = {key: (UUID(found["tenant"]), UUID(found["job"])) for key in keys if (found := _OURS.fullmatch(key))}
    with database.begin() as session:
        tenants = {*session.scalars(select(Tenant.id).where(Tenant.id.in_({tenant for tenant, _ in owners.values()})))}
        rows = session.execute(
            select(Job.id, Job.state, Job.source_key, Result.artifacts)
            .outerjoin(Result, Result.job_id == Job.id)
            .where(Job.id.in_({job for _, job in owners.values()}))
        ).all()
    kept = {row.id: _referred(row.source_key, row.artifacts) for row in rows if JobState(row.state).terminal}
    open_jobs = {row.id for row in rows} - kept.keys()
    return [
        key
        for key, (tenant, job) in owners.items()
        if tenant in tenants and job not in open_jobs and key not in kept.get(job, ())
    ]


def _referred(source_key: str, artifacts: Mapping[str, Mapping[str, str]] | None) -> Collection[str]:
    return {source_key, *(artifact["key"] for artifact in (artifacts or {}).values())}
