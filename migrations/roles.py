"""The database roles that the API and the workers log in as, and the few rights of each.

Roles belong to a whole server, not to a database, and not every owner of a database may create them. So
`distildire db roles` creates them, not a migration. Every upgrade renews their rights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from psycopg2.extensions import connection as Psycopg2Connection  # noqa: N812  # a class in spite of its name
from psycopg2.extensions import encrypt_password
from sqlalchemy import Connection, text

from shared.database.row_level_security import API_ROLE, WORKER_ROLE

#: Only triggers and `fold_tally` write the tally, with their owner's rights. Each role reads the rows that it may see.
_READ_TALLY = dict.fromkeys(
    (
        *("tally_moves", "tally_folds", "tally_lanes", "tally_running"),
        *("tally_last", "tally_since", "running_jobs", "leased_deliveries"),
    ),
    "SELECT",
)
#: The rights of each role on each table and view; it has no rights on others. A verdict is written once, so no role may
#: change one. Rows that are deleted with their parent, such as the tries of a delivery, need no right of their own.
RIGHTS: Mapping[str, Mapping[str, str]] = {
    API_ROLE: {
        "alembic_version": "SELECT",
        "tenants": "SELECT",
        "api_keys": "SELECT",
        "jobs": "SELECT, INSERT, UPDATE, DELETE",
        "results": "SELECT",
        "webhook_endpoints": "SELECT, INSERT, UPDATE, DELETE",
        "webhook_deliveries": "SELECT, INSERT, UPDATE",
        "webhook_attempts": "SELECT",
        "usage_entries": "SELECT, INSERT",
        "usage_days": "SELECT",
        "erasures": "SELECT, INSERT, DELETE",
        "job_states": "SELECT",
        "delivery_states": "SELECT",
        "workers": "SELECT",
        **_READ_TALLY,
    },
    WORKER_ROLE: {
        "alembic_version": "SELECT",
        "tenants": "SELECT",
        "jobs": "SELECT, UPDATE, DELETE",
        "results": "SELECT, INSERT",
        "webhook_endpoints": "SELECT, UPDATE, DELETE",
        "webhook_deliveries": "SELECT, INSERT, UPDATE, DELETE",
        "webhook_attempts": "SELECT, INSERT",
        "usage_entries": "SELECT, INSERT, UPDATE, DELETE",
        "usage_days": "SELECT, INSERT, UPDATE",
        "workers": "SELECT, INSERT, UPDATE, DELETE",
        "erasures": "SELECT, INSERT, UPDATE, DELETE",
        "bucket_walk": "SELECT, INSERT, UPDATE",
        **_READ_TALLY,
    },
}

#: What a role may do with some columns of a table only. The API makes keys, but none that is an operator's.
COLUMN_RIGHTS: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]] = {
    API_ROLE: {
        "api_keys": {
            "INSERT": (
                *("id", "tenant_id", "name", "hash", "hint", "prefix", "scopes", "priority"),
                *("expires_at", "last_used_at", "revoked_at"),
            ),
            "UPDATE": ("expires_at", "last_used_at", "revoked_at"),
        },
    },
}

_COLUMNS = text(
    "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = :table"
)
_READABLE = text(
    "SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace = current_schema()::regnamespace"
)
_WALLED = text("SELECT relname FROM pg_class WHERE relrowsecurity AND relnamespace = current_schema()::regnamespace")
_PASSED = text("SELECT tablename FROM pg_policies WHERE policyname = 'worker' AND schemaname = current_schema()")


def make_roles(connection: Connection, passwords: Mapping[str, str]) -> None:
    """Create the missing roles, allow login for those that have a password here, and grant all roles their rights.

    Raises:
        sqlalchemy.exc.ProgrammingError: the connection's user may not create roles.

    """
    present = _present(connection)
    for role in RIGHTS:
        if role not in present:
            connection.execute(text(f"CREATE ROLE {role}"))
        if role in passwords:
            # The password is hashed here because statements may be logged. The server needs only the hash to check it.
            driver = cast("Psycopg2Connection", connection.connection.dbapi_connection)
            hashed = encrypt_password(passwords[role], role, driver, "scram-sha-256")
            connection.exec_driver_sql(f"ALTER ROLE {role} LOGIN PASSWORD '{hashed}'")
    grant_rights(connection)


def grant_rights(connection: Connection) -> None:
    """Give each existing role exactly its rights in this database."""
    present = _present(connection)
    schema, readable = connection.scalar(text("SELECT quote_ident(current_schema())")), {*connection.scalars(_READABLE)}
    for role in RIGHTS.keys() & present:
        connection.execute(text(f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role}"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {role}"))
        for table in RIGHTS[role].keys() & readable:
            connection.execute(text(f"GRANT {RIGHTS[role][table]} ON {table} TO {role}"))
        for table in COLUMN_RIGHTS.get(role, {}).keys() & readable:
            _grant_columns(connection, role, table)
    if WORKER_ROLE in present:
        _let_worker_pass(connection)


def _grant_columns(connection: Connection, role: str, table: str) -> None:
    """Grant what a role may do with some columns; those that this schema does not have yet are left out."""
    present = {*connection.scalars(_COLUMNS, {"table": table})}
    for right, columns in COLUMN_RIGHTS[role][table].items():
        named = ", ".join(column for column in columns if column in present)
        connection.execute(text(f"GRANT {right} ({named}) ON {table} TO {role}"))


def _let_worker_pass(connection: Connection) -> None:
    """Let the worker see the rows of all tenants in the tables with row-level security."""
    for table in {*connection.scalars(_WALLED)} - {*connection.scalars(_PASSED)}:
        connection.execute(text(f"CREATE POLICY worker ON {table} TO {WORKER_ROLE} USING (true)"))


def _present(connection: Connection) -> set[str]:
    return {*connection.scalars(text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:roles)"), {"roles": [*RIGHTS]})}
