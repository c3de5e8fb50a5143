"""Tenants as the operator sees them: their names, limits and policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from shared.database.tables import Tenant


def list_tenants(session: Session) -> Sequence[Tenant]:
    """Return every tenant, oldest first."""
    return session.scalars(select(Tenant).order_by(Tenant.created_at, Tenant.id)).all()


def change_tenant(session: Session, name: str, changes: Mapping[str, int | str | None]) -> bool:
    """Set these columns of a tenant; None restores the value for all tenants. Return whether the tenant exists."""
    changed = session.execute(update(Tenant).where(Tenant.name == name).values(**changes).returning(Tenant.id))
    return changed.one_or_none() is not None
