"""The tally of both queues: how much waits and runs, and where each lane begins. It reads no row that has ended.

A trigger records every row that enters a queue, leaves it or begins to run (`tally_moves`). A fold sums up the records
since the last fold; a reader adds the records that came after. So a count reads a few blocks, however many rows the
table has, and however many dead rows an open snapshot keeps. See docs/adr/0007.
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

#: The number of folds, at least, whose sums are kept.
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
    """Deliveries that are pending and that no sender tries at the moment."""
    deliveries_running: int
    succeeded: int
    """Jobs since the tally was started; the same holds for the three fields below."""
    failed: int
    canceled: int
    expired: int

    @property
    def open_jobs(self) -> int:
        """Jobs that wait or run."""
        return self.jobs_waiting + self.jobs_running


def totals(session: Session) -> Totals:
    """Return the sums of this moment."""
    return Totals(*map(int, session.execute(_TOTALS).one()))


def ended(session: Session, ago: timedelta) -> dict[JobState, int]:
    """Return how many jobs ended in the last `ago`, by state. The precision is the time between two folds."""
    row = session.execute(_ENDED, {"ago": ago, "kept": _FOLDS_KEPT}).one_or_none() or (0, 0, 0, 0)
    return dict(zip((state for state in JobState if state.terminal), map(int, row), strict=True))


def oldest_waiting_seconds(session: Session) -> float | None:
    """Return how long the oldest waiting job has waited, as of the last fold; None if none waits."""
    seconds = session.scalar(_OLDEST)
    return None if seconds is None else float(seconds)


def open_jobs(session: Session, tenant_id: UUID) -> int:
    """Return how many jobs of a tenant wait or run."""
    return int(session.scalar(_OPEN, {"tenant": tenant_id}) or 0)


def open_jobs_of_all(session: Session) -> dict[UUID, int]:
    """Return the number of open jobs of each tenant that has any."""
    return {owner: int(jobs) for owner, jobs in session.execute(_OPEN_OF_ALL)}


def fold(database: Database, *, older_than: timedelta = timedelta()) -> None:
    """Sum up the moves since the last fold if that fold is at least this old; do nothing while another process folds.

    The trigger also folds by itself after a thousand moves.
    """
    with database.begin() as session:
        session.execute(_FOLD, {"older_than": older_than})
