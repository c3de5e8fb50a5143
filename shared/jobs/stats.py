"""Statistics of the service over all tenants: what waits, what runs and what has just ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Uuid, text
from sqlalchemy.orm import Session

from shared.database.statements import statement
from shared.domain import JobState
from shared.jobs import tally

_DUE = text("SELECT due_deliveries()")
_SNAPSHOT = text("SELECT seconds, pid, application FROM oldest_snapshot()")
_NEWEST = statement("shared.jobs", "newest_jobs").columns(tenant_id=Uuid, id=Uuid)


@dataclass(frozen=True)
class HeldSnapshot:
    """The oldest open snapshot of the database. VACUUM cannot remove rows that were deleted since it was taken."""

    seconds: float
    pid: int | None
    """The id of the PostgreSQL process that holds it; None for a prepared transaction."""
    application: str
    """The `application_name` of its client."""


@dataclass(frozen=True)
class ServiceStats:
    """Sums over all tenants."""

    queued: int
    running: int
    oldest_queued_seconds: float | None
    """How long the waiting job that was accepted first has waited; None if none waits."""
    ended: dict[JobState, int]
    """Jobs that ended in the last five minutes, by state; every terminal state is a key."""
    jobs_per_minute: int
    """Jobs that ended in the last minute."""
    webhooks_pending: int
    """Webhooks that will be tried, now or later."""
    webhooks_due: int
    """The pending webhooks whose next try is due, counted up to a thousand."""


def service_stats(session: Session) -> ServiceStats:
    """Return the statistics of this moment."""
    now = tally.totals(session)
    return ServiceStats(
        queued=now.jobs_waiting,
        running=now.jobs_running,
        oldest_queued_seconds=tally.oldest_waiting_seconds(session),
        ended=tally.ended(session, timedelta(minutes=5)),
        jobs_per_minute=sum(tally.ended(session, timedelta(minutes=1)).values()),
        webhooks_pending=now.deliveries_waiting + now.deliveries_running,
        webhooks_due=session.scalar(_DUE) or 0,
    )


def newest_jobs(session: Session, most: int) -> Sequence[tuple[UUID, UUID]]:
    """Return the tenant and id of the newest job of each of the `most` tenants that submitted most recently."""
    return [(row.tenant_id, row.id) for row in session.execute(_NEWEST, {"most": most})]


def oldest_snapshot(session: Session) -> HeldSnapshot | None:
    """Return the oldest snapshot in this database, except the caller's; None if there is no other."""
    found = session.execute(_SNAPSHOT).one_or_none()
    return None if found is None else HeldSnapshot(*found)
