"""Bring a database to the newest revision, or back; what `distildire db upgrade` and the tests call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, create_engine, make_url

_FOLDER = Path(__file__).parent


def upgrade(database_url: str, revision: str = "head") -> None:
    """Apply all migrations up to `revision`; nothing happens where they are applied."""
    with _connection(database_url) as connection:
        command.upgrade(_config(connection), revision)


def downgrade(database_url: str, revision: str) -> None:
    """Undo migrations down to `revision` (`base`: all)."""
    with _connection(database_url) as connection:
        command.downgrade(_config(connection), revision)


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
