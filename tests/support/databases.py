"""Databases for tests: empty ones, made fast from a migrated template."""

from __future__ import annotations

from uuid import UUID, uuid4

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.orm import Session

from migrations.upgrade import prepare_roles, upgrade
from shared.database.engine import Database
from shared.database.row_level_security import API_ROLE, SHOW_TENANT, WORKER_ROLE
from shared.database.tables import Tenant

#: Of the roles on servers that live as long as a test session.
ROLE_PASSWORD = "password-of-a-throwaway-role"


def fresh_database(server_url: str, template: str = "template1") -> str:
    """Create a database of its own on the server behind `server_url`; return its URL."""
    url = make_url(server_url).set(drivername="postgresql+psycopg2")
    name = f"test_{uuid4().hex}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
    engine.dispose()
    return url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)


def migrated_template(server_url: str) -> str:
    """Create a database with all migrations applied; return its name, to be a template of others."""
    url = fresh_database(server_url)
    migrate(url)
    return str(make_url(url).database)


def migrate(url: str) -> None:
    """Apply all migrations, and let the roles of the API and of the workers log in: `as_role` gives their URLs."""
    upgrade(url)
    prepare_roles(url, dict.fromkeys((API_ROLE, WORKER_ROLE), ROLE_PASSWORD))


def as_role(owner_url: str, role: str) -> str:
    """Return the URL by which `role` reaches the database of `owner_url`."""
    return make_url(owner_url).set(username=role, password=ROLE_PASSWORD).render_as_string(hide_password=False)


def add_tenant(database: Database, name: str, **limits: int) -> UUID:
    """Add a tenant with such limits of its own; return its id."""
    with database.begin() as session:
        row = Tenant(name=name, **limits)
        session.add(row)
    return row.id


def show_tenant(session: Session, tenant_id: UUID) -> None:
    """Have a transaction that was begun for nobody see the rows of a tenant."""
    session.execute(text(SHOW_TENANT), {"tenant": str(tenant_id)})
