"""Models and migrations say the same, and each migration can be undone."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from deploy.local.services import ServiceUrls
from migrations.upgrade import downgrade, is_current, upgrade
from shared.database import Database
from shared.tables import Base
from tests.databases import fresh_database


def test_models_and_migrations_agree(services: ServiceUrls) -> None:
    url = fresh_database(services.database_url)
    upgrade(url)
    assert is_current(url)
    engine = Database(url).engine
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    migrated = _constraints(url)
    created = fresh_database(services.database_url)
    Base.metadata.create_all(Database(created).engine)
    assert migrated == _constraints(created)  # autogenerate does not compare CHECK constraints


def test_every_migration_can_be_undone_and_done_again(services: ServiceUrls) -> None:
    url = fresh_database(services.database_url)
    upgrade(url)
    downgrade(url, "base")
    assert not is_current(url)
    assert inspect(Database(url).engine).get_table_names() == ["alembic_version"]
    upgrade(url)
    upgrade(url)
    assert is_current(url)


def _constraints(url: str) -> dict[str, list[str]]:
    found = inspect(Database(url).engine)
    return {
        table: sorted(str(check["name"]) for check in found.get_check_constraints(table))
        for table in found.get_table_names()
        if table != "alembic_version"
    }
