"""Tenants as the operator sees them: their names, limits, policies and numbers of open jobs."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from shared.database.tables import Tenant
from shared.jobs import tally


def list_tenants(session: Session) -> list[tuple[Tenant, int]]:
    """Return every tenant with the number of its open jobs, oldest first."""
    open_jobs = tally.open_jobs_of_all(session)
    tenants = session.scalars(select(Tenant).order_by(Tenant.created_at, Tenant.id))
    return [(tenant, open_jobs.get(tenant.id, 0)) for tenant in tenants]


def change_tenant(session: Session, name: str, changes: Mapping[str, int | str | None]) -> bool:
    """Set these columns of a tenant; None restores the value for all tenants. Return whether the tenant exists."""
    changed = session.execute(update(Tenant).where(Tenant.name == name).values(**changes).returning(Tenant.id))
    return changed.one_or_none() is not None
