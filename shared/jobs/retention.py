"""Deletes old and deleted jobs with their stored bytes, and stored objects that no job refers to.

A job's row is deleted first. The same transaction writes an erasure: a note that the job's bytes must be erased. If a
process dies in between, no row is left without its pictures, and another process erases the bytes that the note names.
A walk through the bucket finds objects that never had a row, or that have neither a row nor an erasure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID

from sqlalchemy import Uuid, delete, select, text
from sqlalchemy.orm import Session

from shared.database.engine import Database
from shared.database.statements import statement
from shared.database.tables import Erasure, JobRow, ResultRow, Tenant
from shared.domain import PICTURES
from shared.errors import StoreUnavailableError
from shared.storage.object_store import ObjectStore, artifact_key, job_prefix, source_key

#: Longer than any request or attempt takes from storing its first byte to its commit.
GRACE = timedelta(hours=24)
#: An erasure that is not complete by then, because its process died or the store was down, is tried again.
_RETRY = timedelta(minutes=1)
#: The time between the end of one walk through the bucket and the next.
_REST = timedelta(hours=6)
_PAGE = 1_000
#: The most objects that one call deletes: a server may delete them one by one, and answer nothing else meanwhile.
_ERASED_AT_ONCE = 100

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
#: The keys that `shared/storage/object_store.py` makes. Other objects in the bucket are not ours.
_OURS = re.compile(rf"(?P<tenant>{_UUID})/(?P<job>{_UUID})/(?:source|[0-9]+/[a-z_]+\.(?:png|jpg))")

_DELETE_OLD = statement("shared.jobs", "delete_old")

_CLAIM_ERASURES = statement("shared.jobs", "claim_erasures").columns(tenant_id=Uuid, job_id=Uuid)

_TAKE_PAGE = text("""
INSERT INTO bucket_walk (next_at) VALUES (now() + :retry)
ON CONFLICT ("only") DO UPDATE SET next_at = now() + :retry WHERE bucket_walk.next_at <= now()
RETURNING after_key
""")
_END_PAGE = text("UPDATE bucket_walk SET after_key = :after, next_at = now() + :rest")
_BACKLOG = text("SELECT jobs, erasures FROM retention_backlog(CAST(:days AS int))")


@dataclass(frozen=True)
class Doomed:
    """A job whose row is deleted and whose bytes must be erased."""

    tenant_id: UUID
    job_id: UUID
    attempts: int | None
    """The number of attempts that may have stored something; None: it was not recorded."""

    def keys(self, store: ObjectStore) -> list[str]:
        """Return the keys of all that its attempts can have stored; if their number is unknown, list the store."""
        if self.attempts is None:
            return store.keys(job_prefix(self.tenant_id, self.job_id))
        pictures = product(range(1, self.attempts + 1), PICTURES)
        return [
            source_key(self.tenant_id, self.job_id),
            *(artifact_key(self.tenant_id, self.job_id, attempt, name) for attempt, name in pictures),
        ]


@dataclass(frozen=True)
class Backlog:
    """How much must still be deleted or erased."""

    jobs: int
    """Jobs that ended longer ago than they are kept."""
    erasures: int
    """Jobs whose row is deleted and whose bytes are not erased yet."""


@dataclass(frozen=True)
class Walked:
    """What the walk through one page of the bucket found and removed."""

    objects: int
    removed: int
    kept: int
    """Objects that no job refers to, and that the store refused to delete."""


def delete_job(session: Session, tenant_id: UUID, job_id: UUID) -> JobRow | None:
    """Delete a job that has ended, and write down that its bytes must go; one that has not ended stays.

    Returns the job, deleted or not; None if the tenant has no job with this id.
    """
    owned = select(JobRow).where(JobRow.id == job_id, JobRow.tenant_id == tenant_id).with_for_update()
    job = session.scalars(owned).one_or_none()
    if job is not None and job.state.terminal:
        session.add(Erasure(job_id=job.id, tenant_id=job.tenant_id, attempts=job.attempt))
        session.execute(delete(JobRow).where(JobRow.id == job.id))
    return job


def delete_old(database: Database, *, days: int | None, most: int = 500) -> int:
    """Delete up to `most` jobs that ended longer ago than their tenant keeps them; return how many.

    `days` holds for tenants without a retention time of their own; None keeps their jobs for ever. Any number of
    processes may call this at once: each takes other jobs.
    """
    with database.begin() as session:
        return len(session.execute(_DELETE_OLD, {"days": days, "most": most}).all())


def erase_some(database: Database, store: ObjectStore, *, most: int = 25) -> int:
    """Erase the bytes of up to `most` deleted jobs, beginning with those that have waited longest; return how many.

    Any number of threads and processes may call this at once: each takes other jobs.

    Raises:
        StoreUnavailableError: some bytes could not be erased; they are tried again in a minute.

    """
    with database.begin() as session:
        rows = session.execute(_CLAIM_ERASURES, {"retry": _RETRY, "most": most}).all()
    if rows:
        _erase(database, store, [Doomed(*row) for row in rows])
    return len(rows)


def erase(database: Database, store: ObjectStore, tenant_id: UUID, job_id: UUID) -> None:
    """Delete all bytes of a job whose row is deleted, whichever attempt stored them; then delete its erasure.

    Raises:
        StoreUnavailableError, DatabaseUnavailableError: the erasure is still there.

    """
    _erase(database, store, [Doomed(tenant_id, job_id, None)])


def _erase(database: Database, store: ObjectStore, jobs: Collection[Doomed]) -> None:
    """Delete the bytes of these jobs with few calls of the store, then the erasures of the jobs that have none left."""
    owners = {key: job.job_id for job in jobs for key in job.keys(store)}
    keys, most = list(owners), _ERASED_AT_ONCE
    kept = {key for start in range(0, len(keys), most) for key in store.delete_all(keys[start : start + most])}
    erased = {job.job_id for job in jobs} - {owners[key] for key in kept}
    with database.begin() as session:
        session.execute(delete(Erasure).where(Erasure.job_id.in_(erased)))
    if kept:
        raise StoreUnavailableError(f"The object store refused to delete {min(kept)!r} and {len(kept) - 1} others.")


def backlog(session: Session, *, days: int | None) -> Backlog:
    """Return how much must still be deleted, counted up to ten thousand; `days` as in `delete_old`."""
    return Backlog(*session.execute(_BACKLOG, {"days": days}).one())


def collect_orphans(database: Database, store: ObjectStore, *, grace: timedelta = GRACE) -> Walked | None:
    """Walk through one page of the bucket and delete objects that no row refers to and that are older than `grace`.

    Returns None if another process walks at the moment, or if the last walk ended recently. If a process dies, another
    takes its page again.

    Raises:
        StoreUnavailableError: the store is down; the walk continues from the same page later.

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

    An object of a job that has not ended may still be committed, so it is not an orphan. What an ended job refers to no
    longer changes. An object of a tenant that this database does not know belongs to another installation that uses the
    same bucket.
    """
    owners = {key: (UUID(found["tenant"]), UUID(found["job"])) for key in keys if (found := _OURS.fullmatch(key))}
    with database.begin() as session:
        tenants = {*session.scalars(select(Tenant.id).where(Tenant.id.in_({tenant for tenant, _ in owners.values()})))}
        rows = session.execute(
            select(JobRow.id, JobRow.state, JobRow.source_key, ResultRow.artifacts)
            .outerjoin(ResultRow, ResultRow.job_id == JobRow.id)
            .where(JobRow.id.in_({job for _, job in owners.values()}))
        ).all()
    kept = {row.id: _referred(row.source_key, row.artifacts) for row in rows if row.state.terminal}
    open_jobs = {row.id for row in rows} - kept.keys()
    return [
        key
        for key, (tenant, job) in owners.items()
        if tenant in tenants and job not in open_jobs and key not in kept.get(job, ())
    ]


def _referred(source_key: str, artifacts: Mapping[str, Mapping[str, str]] | None) -> Collection[str]:
    return {source_key, *(artifact["key"] for artifact in (artifacts or {}).values())}
