"""How the service stands at this moment, over all tenants: what waits, runs and has just ended."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from shared.jobs import JobState

# Each reads no more than what waits, runs, or has just ended, from an index; never all jobs there ever were. The views
# show all tenants' rows, and of each only what is counted here.
_QUEUED = text("SELECT count(*) FROM job_states WHERE state = 'queued'")
_RUNNING = text("SELECT count(*) FROM job_states WHERE state = 'running'")
_OLDEST = text("SELECT extract(epoch FROM now() - min(created_at)) FROM job_states WHERE state = 'queued'")
_ENDED = text("""
SELECT state, count(*), count(*) FILTER (WHERE finished_at > now() - interval '1 minute') FROM job_states
WHERE finished_at > now() - interval '5 minutes' GROUP BY state
""")
_WEBHOOKS = text("""
SELECT count(*), count(*) FILTER (WHERE next_attempt_at <= now()) FROM delivery_states WHERE state = 'pending'
""")


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
    """Those of them whose try should have been made by now."""


def overview(session: Session) -> Overview:
    """Look once."""
    oldest = session.scalar(_OLDEST)
    found = {JobState(state): (five, one) for state, five, one in session.execute(_ENDED)}
    pending, due = session.execute(_WEBHOOKS).one()
    return Overview(
        queued=session.scalar(_QUEUED) or 0,
        running=session.scalar(_RUNNING) or 0,
        oldest_queued_seconds=None if oldest is None else float(oldest),
        ended={state: found.get(state, (0, 0))[0] for state in JobState if state.terminal},
        jobs_per_minute=sum(one for _, one in found.values()),
        webhooks_pending=pending,
        webhooks_due=due,
    )
