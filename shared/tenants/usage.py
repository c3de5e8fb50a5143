"""What tenants use: the jobs that ended, their bytes and their device seconds, by day (UTC) and API key.

The transaction that ends a job writes one entry. So usage is exact, and no two jobs wait for one row. Retention adds
the entries to the sums of their days. The sums stay when the jobs are deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

from sqlalchemy import Uuid, insert
from sqlalchemy.orm import Session

from shared.database.engine import Database
from shared.database.statements import statement
from shared.database.tables import USAGE_ENTRIES, JobRow

_FOLD = statement("shared.tenants", "fold_usage")
_OF_TENANT = statement("shared.tenants", "usage_of_tenant").columns(key_id=Uuid)


@dataclass(frozen=True)
class DayUsage:
    """What one key used on one day."""

    day: date
    """In UTC."""
    key_id: UUID | None
    """None for jobs that an older version accepted."""
    jobs: int
    """Jobs that ended on this day, however they ended."""
    bytes: int
    """Of their uploaded images."""
    device_seconds: float
    """Their share of the passes of the device; only of jobs that succeeded."""


def record(session: Session, job: JobRow, ended_at: datetime, *, device_seconds: float) -> None:
    """Write the entry of a job in the transaction that ends it."""
    session.execute(
        insert(USAGE_ENTRIES).values(
            tenant_id=job.tenant_id,
            day=ended_at.astimezone(UTC).date(),
            key_id=job.key_id,
            jobs=1,
            bytes=job.source_bytes,
            device_seconds=device_seconds,
        )
    )


def fold(database: Database, *, most: int = 10_000) -> int:
    """Add up to `most` entries to the sums of their days; return how many. Any number of processes may call this."""
    with database.begin() as session:
        return int(session.scalars(_FOLD, {"most": most}).one())


def device_seconds_of_day(session: Session, tenant_id: UUID, day: date) -> float:
    """Return the device seconds that a tenant has used on a day."""
    return sum(used.device_seconds for used in read(session, tenant_id, day, day))


def read(session: Session, tenant_id: UUID, first: date, last: date) -> Sequence[DayUsage]:
    """Return what a tenant used on the days from `first` to `last`, both included, oldest first."""
    values = {"tenant": tenant_id, "first": first, "last": last}
    return [DayUsage(*row) for row in session.execute(_OF_TENANT, values)]
