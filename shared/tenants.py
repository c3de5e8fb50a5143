"""Tenants as the operator sees them: who they are, how much of theirs is open, their limits and policies."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from shared.jobs import JobState
from shared.tables import Job, Tenant


def list_tenants(session: Session) -> list[tuple[Tenant, int]]:
    """Return every tenant with the number of its open jobs, oldest first."""
    # Each a count of its own, as the indexes of what waits and of what runs are.
    waiting, running = (
        select(func.count()).where(Job.tenant_id == Tenant.id, Job.state == state).scalar_subquery()
        for state in (JobState.QUEUED, JobState.RUNNING)
    )
    rows = session.execute(select(Tenant, waiting + running).order_by(Tenant.created_at, Tenant.id))
    return [(tenant, open_jobs) for tenant, open_jobs in rows]


def change_tenant(session: Session, name: str, changes: Mapping[str, int | str | None]) -> bool:
    """Set these columns of a tenant, None being what holds for all; return whether there is such a tenant."""
    changed = session.execute(update(Tenant).where(Tenant.name == name).values(**changes).returning(Tenant.id))
    return changed.one_or_none() is not None
