"""How the service stands at this moment, over all tenants: what waits, runs and has just ended."""

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
    """The oldest transaction that still sees what was there when it began: no VACUUM removes what has gone since."""

    seconds: float
    pid: int | None
    """Of PostgreSQL's process; None for a prepared transaction."""
    application: str
    """As its client calls itself."""


@dataclass(frozen=True)
class Overview:
    """Sums over all tenants."""

    queued: int
    running: int
    oldest_queued_seconds: float | None
    """How long the job has waited that was accepted first of those that wait; None where none does."""
    ended: dict[JobState, int]
    """Jobs that ended within five minutes, by their state; each terminal state is there."""
    jobs_per_minute: int
    """Jobs that ended within one minute."""
    webhooks_pending: int
    """Webhooks that wait for a try, now or later."""
    webhooks_due: int
    """Those of them whose try should have been made by now, counted up to a thousand."""


def overview(session: Session) -> Overview:
    """Look once."""
    now = tally.totals(session)
    return Overview(
        queued=now.jobs_waiting,
        running=now.jobs_running,
        oldest_queued_seconds=tally.oldest_waiting_seconds(session),
        ended=tally.ended(session, timedelta(minutes=5)),
        jobs_per_minute=sum(tally.ended(session, timedelta(minutes=1)).values()),
        webhooks_pending=now.deliveries_waiting + now.deliveries_running,
        webhooks_due=session.scalar(_DUE) or 0,
    )


def newest_jobs(session: Session, most: int) -> Sequence[tuple[UUID, UUID]]:
    """Return tenant and id of the newest job of each of the `most` tenants that submitted last."""
    return [(row.tenant_id, row.id) for row in session.execute(_NEWEST, {"most": most})]


def oldest_snapshot(session: Session) -> HeldSnapshot | None:
    """Return who holds the oldest snapshot in this database, besides the caller; None where nobody holds one."""
    found = session.execute(_SNAPSHOT).one_or_none()
    return None if found is None else HeldSnapshot(*found)
