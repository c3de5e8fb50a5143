"""Upgrades a database to the newest revision, or downgrades it, for `distildire db` and the tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg2.extensions import connection as Psycopg2Connection  # noqa: N812  # a class in spite of its name
from sqlalchemy import Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from migrations.roles import grant_rights, make_roles
from shared.database.engine import reason
from shared.errors import DatabaseUnavailableError, DistildireError

_FOLDER = Path(__file__).parent


class DirectConnectionNeededError(DistildireError):
    """Migrations need a direct connection to PostgreSQL, but the URL leads to a pooler such as PgBouncer.

    A pooler may give each transaction another connection, and the migrations' lock would stay on one of them. Nothing
    was changed. Run this command again with PostgreSQL's own address in DISTILDIRE_DATABASE_URL.
    """


def upgrade(database_url: str, revision: str = "head") -> None:
    """Apply all migrations up to `revision`, and grant the existing roles their rights on new tables.

    The tally is counted again, because the database may be a restored copy.

    Raises:
        DatabaseUnavailableError: the database cannot be reached.
        DirectConnectionNeededError: the URL leads to a pooler.

    """
    with _direct_connection(database_url) as connection:
        command.upgrade(_config(connection), revision)
        grant_rights(connection)
        if connection.scalar(text("SELECT to_regproc('count_anew') IS NOT NULL")):
            connection.execute(text("SELECT count_anew()"))
        connection.commit()


def downgrade(database_url: str, revision: str) -> None:
    """Undo migrations down to `revision` (`base`: all). Raises as `upgrade`."""
    with _direct_connection(database_url) as connection:
        command.downgrade(_config(connection), revision)


def prepare_roles(database_url: str, passwords: Mapping[str, str]) -> None:
    """Create the roles of `migrations/roles.py` with their rights; those with a password in `passwords` may log in."""
    with _connection(database_url) as connection:
        make_roles(connection, passwords)
        connection.commit()


def is_current(database_url: str) -> bool:
    """Whether the database is at the newest revision that this release knows.

    Raises:
        DatabaseUnavailableError: the database cannot be reached.

    """
    with _connection(database_url) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current == ScriptDirectory(str(_FOLDER)).get_current_head()


@contextmanager
def _connection(database_url: str) -> Iterator[Connection]:
    """Yield a connection that is closed afterwards, never pooled, because Alembic leaves settings and a lock on it."""
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg2"), poolclass=NullPool)
    try:
        connection = engine.connect()
    except OperationalError as error:
        raise DatabaseUnavailableError(reason(error)) from error
    with connection:
        yield connection


@contextmanager
def _direct_connection(database_url: str) -> Iterator[Connection]:
    """Yield a direct connection. A pooler reports another process id to its clients than the server has."""
    with _connection(database_url) as connection:
        driver = cast("Psycopg2Connection", connection.connection.dbapi_connection)
        if connection.scalar(text("SELECT pg_backend_pid()")) != driver.info.backend_pid:
            raise DirectConnectionNeededError
        yield connection


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.attributes["connection"] = connection
    return config
