"""Models and migrations say the same, and each migration can be undone."""

from __future__ import annotations

from uuid import uuid4

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from deploy.local.services import ServiceUrls
from migrations.upgrade import downgrade, is_current, upgrade
from shared.database.engine import Database
from shared.database.tables import Base
from shared.webhooks.endpoints import delete_endpoint, give_up
from tests.support.databases import fresh_database


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


_ENDPOINT = """
INSERT INTO webhook_endpoints (id, tenant_id, url, event_types, secret_encrypted)
VALUES (:endpoint, :tenant, 'https://receiver.test/', '{job.failed}', '')
"""
_DELIVERY = """
INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, job_id, event_type, body, created_at)
VALUES (gen_random_uuid(), :tenant, :endpoint, :job, 'job.failed', 'a body', now() - interval '9 days')
"""
_JOB = """
INSERT INTO jobs (id, tenant_id, state, deadline_at, finished_at, pictures, metadata, source_key, source_sha256,
                  source_bytes, media_type)
VALUES (:job, :tenant, 'failed', now(), now(), '{}', '{}', 'key', 'digest', 1, 'image/png')
"""
#: As a try of the migration may leave it; it is made once more.
_BROKEN_OFF = "ALTER TABLE webhook_deliveries ADD COLUMN begun_at timestamptz NOT NULL DEFAULT now()"


def test_what_waited_before_endpoints_were_closed_by_a_flag_is_young_and_none_comes_back_that_was_deleted(
    services: ServiceUrls,
) -> None:
    url = fresh_database(services.database_url)
    upgrade(url, "0012")
    tenant, job, kept, gone = (uuid4() for _ in range(4))
    with Database(url) as database:
        with database.begin() as session:
            session.execute(text("INSERT INTO tenants (id, name) VALUES (:tenant, 'one')"), {"tenant": tenant})
            session.execute(text(_JOB), {"tenant": tenant, "job": job})
            for endpoint in (kept, gone):
                told = {"tenant": tenant, "job": job, "endpoint": endpoint}
                session.execute(text(_ENDPOINT), told)
                session.execute(text(_DELIVERY), told)
            session.execute(text(_BROKEN_OFF))
        upgrade(url)
        assert give_up(database) == 0  # or a backlog of weeks would be given up at once
        with database.begin() as session:
            assert delete_endpoint(session, tenant, gone)
        downgrade(url, "0012")
        with database.begin() as session:
            for table, column in (("webhook_endpoints", "id"), ("webhook_deliveries", "endpoint_id")):
                assert session.scalars(text(f"SELECT {column} FROM {table}")).all() == [kept]
        upgrade(url)
        assert is_current(url)


def _constraints(url: str) -> dict[str, list[str]]:
    found = inspect(Database(url).engine)
    return {
        table: sorted(str(check["name"]) for check in found.get_check_constraints(table))
        for table in found.get_table_names()
        if table != "alembic_version"
    }
