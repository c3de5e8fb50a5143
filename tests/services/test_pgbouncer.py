"""What the service asks of PostgreSQL holds behind PgBouncer in transaction mode, and stays on nobody's connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from deploy.doctor.server_checks import CheckedServers, check_servers
from migrations.upgrade import DirectConnectionNeededError, downgrade, is_current, prepare_roles, upgrade
from shared.database.engine import REQUEST, WORK, Database
from shared.database.row_level_security import API_ROLE, WORKER_ROLE
from shared.domain import NewJob
from shared.errors import DatabaseUnavailableError
from shared.jobs import claiming, lifecycle
from shared.settings import Settings
from tests.support.api_world import ApiWorld
from tests.support.databases import add_tenant, as_role
from tests.support.pgbouncer import behind_pgbouncer, needs_pgbouncer

pytestmark = needs_pgbouncer

Connect = Callable[..., Database]
#: What a transaction is begun with.
TOLD = text("""
    SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),
           current_setting('idle_in_transaction_session_timeout'), current_setting('timezone'),
           current_setting('distildire.tenant', true)
""")


@pytest.fixture
def pooled(empty_database: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated database behind PgBouncer; each user has one connection to the server."""
    with behind_pgbouncer(tmp_path, empty_database, connections=1) as url:
        yield url


@pytest.fixture
def connect(pooled: str) -> Iterator[Connect]:
    """Connect through PgBouncer, as the owner or as a role."""
    opened: list[Database] = []

    def connected(role: str | None = None, **changes: object) -> Database:
        opened.append(Database(as_role(pooled, role) if role else pooled, **changes))  # type: ignore[arg-type]  # as it takes them
        return opened[-1]

    yield connected
    for database in opened:
        database.close()


def told(database: Database) -> tuple[str, ...]:
    with database.begin() as session:
        return tuple(session.execute(TOLD).one())


def test_each_transaction_has_its_own_settings_on_a_connection_that_all_share(connect: Connect, pooled: str) -> None:
    tenant = UUID(int=7)
    request = connect(waits=REQUEST, tenant=lambda: tenant)
    work = connect(waits=WORK)
    of_request, of_work = ("5s", "1500ms", "5s", "UTC", str(tenant)), ("15s", "5s", "15s", "UTC", "")
    assert [told(database) for database in (request, work, request, work)] == [of_request, of_work] * 2
    stranger = create_engine(make_url(pooled).set(drivername="postgresql+psycopg2"), poolclass=NullPool)
    with stranger.connect() as connection:
        assert connection.execute(TOLD).one()[:3] == ("0", "0", "0")


def test_a_statement_and_a_lock_are_not_waited_for_too_long(connect: Connect, empty_database: str) -> None:
    brief = connect(waits=replace(REQUEST, statement_seconds=0.5, lock_seconds=0.1))
    with pytest.raises(DatabaseUnavailableError) as statement, brief.begin() as session:
        session.execute(text("SELECT pg_sleep(60)"))
    with Database(empty_database) as direct, direct.begin() as holder:
        holder.execute(text("LOCK TABLE jobs"))
        with pytest.raises(DatabaseUnavailableError) as lock, brief.begin() as session:
            session.execute(text("SELECT count(*) FROM jobs"))
    assert [sqlstate(caught) for caught in (statement, lock)] == ["57014", "55P03"]


def sqlstate(caught: pytest.ExceptionInfo[DatabaseUnavailableError]) -> object:
    cause = caught.value.__cause__
    assert isinstance(cause, DBAPIError)
    return getattr(cause.orig, "pgcode", None)


def test_a_tenant_sees_its_own_rows_whoever_used_the_connection_before(connect: Connect) -> None:
    owner = connect()
    tenants = [add_tenant(owner, name) for name in ("a", "b")]
    jobs = {tenant: add_job(owner, tenant) for tenant in tenants}
    asked: list[UUID | None] = [None]
    api = connect(API_ROLE, waits=REQUEST, tenant=lambda: asked[0])
    for who in (*tenants, None, *tenants):
        asked[0] = who
        with api.begin() as session:
            assert session.scalars(text("SELECT id FROM jobs")).all() == ([jobs[who]] if who else [])


def test_claims_at_the_same_moment_take_each_job_once(connect: Connect) -> None:
    owner = connect()
    tenant = add_tenant(owner, "a")
    jobs = [add_job(owner, tenant) for _ in range(24)]
    workers = [connect(WORKER_ROLE) for _ in range(4)]

    def claim_all(number: int) -> list[UUID]:
        found = []
        while (job := claiming.claim(workers[number], worker="w", model="M", lease=timedelta(seconds=30))) is not None:
            found.append(job.id)
        return found

    with ThreadPoolExecutor(len(workers)) as pool:
        claimed = Counter(job for taken in pool.map(claim_all, range(len(workers))) for job in taken)
    assert claimed == Counter(jobs)


def add_job(database: Database, tenant: UUID) -> UUID:
    job_id = uuid4()
    with database.begin() as session:
        lifecycle.create(session, NewJob(job_id, tenant, "k", "ab" * 32, 1, "image/png"), deadline=timedelta(hours=1))
    return job_id


@pytest.mark.parametrize("change", [upgrade, lambda url: downgrade(url, "base")], ids=["upgrade", "downgrade"])
def test_migrations_ask_for_a_connection_of_their_own(pooled: str, change: Callable[[str], None]) -> None:
    with pytest.raises(DirectConnectionNeededError, match="PgBouncer"):
        change(pooled)
    assert is_current(pooled)


def test_roles_are_prepared_through_it(pooled: str, connect: Connect) -> None:
    prepare_roles(pooled, {})
    assert told(connect(WORKER_ROLE))


def test_doctor_finds_nothing_wrong(api: ApiWorld, owner_settings: Settings, tmp_path: Path) -> None:
    api.one.submit()
    api.fail_next()
    with behind_pgbouncer(tmp_path, owner_settings.database_url.get_secret_value()) as url, api.working():
        settings = owner_settings.model_copy(update={"database_url": SecretStr(url)})
        findings = list(check_servers(CheckedServers(settings, None, tmp_path)))
    assert [finding for finding in findings if finding.faulty] == []
