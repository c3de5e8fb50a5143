"""Alembic's environment: one transaction per migration, with lock and statement timeouts, under an advisory lock."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from shared.database.tables import Base

#: The key of the advisory lock that makes two hosts upgrade one after the other.
_UPGRADE_LOCK = 0x44697266


def _run(connection: Connection) -> None:
    # Only this upgrade uses the connection, and closes it afterwards, so the lock and the timeouts end with it.
    connection.execute(text("SET statement_timeout = '5min'"))
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _UPGRADE_LOCK})
    # A migration that cannot get a table's lock soon must fail, because every request would queue behind it.
    connection.execute(text("SET lock_timeout = '4s'"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


_run(context.config.attributes["connection"])
