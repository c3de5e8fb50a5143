"""Bring a database to the newest revision, or back; what `distildire db upgrade` and the tests call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, create_engine, make_url

from migrations.roles import grant_rights, make_roles

_FOLDER = Path(__file__).parent


def upgrade(database_url: str, revision: str = "head") -> None:
    """Apply all migrations up to `revision`, and give the roles that there are their rights in what is new."""
    with _connection(database_url) as connection:
        command.upgrade(_config(connection), revision)
        grant_rights(connection)
        connection.commit()


def downgrade(database_url: str, revision: str) -> None:
    """Undo migrations down to `revision` (`base`: all)."""
    with _connection(database_url) as connection:
        command.downgrade(_config(connection), revision)


def prepare_roles(database_url: str, passwords: Mapping[str, str]) -> None:
    """Make the roles of `migrations/roles.py` with their rights; those with a password, by role, may then log in."""
    with _connection(database_url) as connection:
        make_roles(connection, passwords)
        connection.commit()


def is_current(database_url: str) -> bool:
    """Whether the database is at the newest revision that this release knows."""
    with _connection(database_url) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current == ScriptDirectory(str(_FOLDER)).get_current_head()


@contextmanager
def _connection(database_url: str) -> Iterator[Connection]:
    """Yield a connection that is closed afterwards, never pooled: Alembic leaves settings and a lock on it."""
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg2"), poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.attributes["connection"] = connection
    return config
