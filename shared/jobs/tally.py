"""The tally of both queues: how much waits and runs, and where what waits begins, without a look at what has ended.

Every row that comes into a queue, leaves it or begins to run is written down by a trigger (`tally_moves`). A fold sums
up what was written since the last one; whoever reads adds what came after. So a count costs a few blocks, however many
rows there are and however many dead ones a snapshot holds that somebody keeps open. See docs/adr/0007.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from shared.database.engine import Database
from shared.database.statements import statement
from shared.domain import JobState

#: So many folds, or a few more, keep their sums.
_FOLDS_KEPT = 2_000

_TOTALS = text("SELECT * FROM queue_totals()")
_OPEN = statement("shared.jobs", "open_jobs")
_OPEN_OF_ALL = statement("shared.jobs", "open_jobs_of_all")
_ENDED = statement("shared.jobs", "ended")
_OLDEST = text("SELECT extract(epoch FROM now() - oldest_waiting())")
_FOLD = text("SELECT fold_tally(:older_than)")


@dataclass(frozen=True)
class Totals:
    """Sums over all tenants, at this moment."""

    jobs_waiting: int
    jobs_running: int
    deliveries_waiting: int
    """Pending, and not being tried."""
    deliveries_running: int
    succeeded: int
    """Since the tally was begun, as the other ends."""
    failed: int
    canceled: int
    expired: int

    @property
    def open_jobs(self) -> int:
        """Jobs that wait or run."""
        return self.jobs_waiting + self.jobs_running


def totals(session: Session) -> Totals:
    """Count."""
    return Totals(*map(int, session.execute(_TOTALS).one()))


def ended(session: Session, ago: timedelta) -> dict[JobState, int]:
    """Return how many jobs have ended since so long ago, by their state; as exact as folds are frequent."""
    row = session.execute(_ENDED, {"ago": ago, "kept": _FOLDS_KEPT}).one_or_none() or (0, 0, 0, 0)
    return dict(zip((state for state in JobState if state.terminal), map(int, row), strict=True))


def oldest_waiting_seconds(session: Session) -> float | None:
    """Return how long the job has waited that has waited for longest, as of the last fold; None where none waits."""
    seconds = session.scalar(_OLDEST)
    return None if seconds is None else float(seconds)


def open_jobs(session: Session, tenant_id: UUID) -> int:
    """Return how many jobs of a tenant wait or run."""
    return int(session.scalar(_OPEN, {"tenant": tenant_id}) or 0)


def open_jobs_of_all(session: Session) -> dict[UUID, int]:
    """Return the same for each tenant that has some."""
    return {owner: int(jobs) for owner, jobs in session.execute(_OPEN_OF_ALL)}


def fold(database: Database, *, older_than: timedelta = timedelta()) -> None:
    """Sum up what has moved since the last fold, if that is so old; nothing where another process is at it.

    Of a thousand moves the last does so by itself.
    """
    with database.begin() as session:
        session.execute(_FOLD, {"older_than": older_than})
