"""Idempotency keys: a tenant's key names one job for as long as the job is kept, however often it is submitted."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from shared.database.tables import JobRow
from shared.domain import NewJob
from shared.errors import DistildireError
from shared.jobs.options import to_columns


class KeyReusedError(DistildireError):
    """The idempotency key was already used with another image or other options."""


def earlier_job(session: Session, new: NewJob) -> JobRow | None:
    """Return the job that this very submission made when it came before; None where it did not, or has no key.

    Raises:
        KeyReusedError: the key was used with another image or other options.

    """
    if new.idempotency_key is None:
        return None
    columns = {"source_sha256": new.source_sha256, "replay_of": new.replay_of, **to_columns(new.options)}
    # PostgreSQL compares metadata as jsonb: the order of its members and the form of its numbers do not count.
    same = and_(*(getattr(JobRow, name).is_not_distinct_from(value) for name, value in columns.items()))
    found = session.execute(
        select(JobRow, same.label("same")).where(
            JobRow.tenant_id == new.tenant_id, JobRow.idempotency_key == new.idempotency_key
        )
    ).one_or_none()
    if found is None:
        return None
    if not found.same:
        raise KeyReusedError
    return found[0]


def key_is_known(session: Session, tenant_id: UUID, key: str) -> bool:
    """Whether a job of the tenant has this key."""
    query = select(JobRow.id).where(JobRow.tenant_id == tenant_id, JobRow.idempotency_key == key)
    return session.scalar(query) is not None
