"""How Alembic runs here: one transaction a migration, with lock and statement timeouts, under one advisory lock."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from shared.database.tables import Base

#: Two hosts that upgrade at the same moment take turns.
_UPGRADE_LOCK = 0x44697266


def _run(connection: Connection) -> None:
    # The connection is this upgrade's own and closed after it, so that lock and timeouts end with it.
    connection.execute(text("SET statement_timeout = '5min'"))
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _UPGRADE_LOCK})
    # A migration that cannot have a table's lock at once must fail, not queue every request behind it.
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
