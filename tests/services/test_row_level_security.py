"""The wall between tenants that PostgreSQL keeps by itself, whatever statement the API or a worker sends."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, inspect, select, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from migrations.roles import RIGHTS
from migrations.upgrade import prepare_roles
from shared.database.engine import Database
from shared.database.row_level_security import API_ROLE, WORKER_ROLE
from shared.database.tables import Base, JobRow, ResultRow, Tenant, WebhookEndpoint
from shared.jobs import claiming, queries, sweeping, tally
from shared.settings import Settings
from shared.tenants.api_keys import authenticate
from tests.support.api_world import ApiWorld
from tests.support.databases import as_role, show_tenant

#: Of nobody in particular: what a worker says of itself, how far a search came.
OF_NO_TENANT = {"workers", "bucket_walk", "tally_folds"}
WALLED = sorted(Base.metadata.tables.keys() - OF_NO_TENANT)
#: Those of which the tests below have both tenants own something.
OWNED = sorted({*WALLED} - {"api_keys", "erasures", "tally_moves", "tally_lanes", "tally_running"})


@pytest.fixture
def connect(api_settings: Settings) -> Iterator[Callable[[str], Database]]:
    """Connect as a role, as the processes do."""
    opened = []

    def as_that(role: str) -> Database:
        opened.append(Database(as_role(api_settings.database_url.get_secret_value(), role), pool_size=1))
        return opened[-1]

    yield as_that
    for database in opened:
        database.close()


@pytest.fixture
def tenants(api: ApiWorld) -> tuple[UUID, UUID]:
    """Two tenants, each with a job that succeeded and its usage, an endpoint, a delivery and a try of it."""
    for visitor in (api.one, api.other):
        visitor.add_endpoint()
        visitor.submit()
        api.succeed_next()
    with api.around.database.begin() as session:
        session.execute(
            text("INSERT INTO webhook_attempts (delivery_id, attempt, started_at, duration_ms)"
                 " SELECT id, 1, now(), 5 FROM webhook_deliveries")
        )  # fmt: skip
        counted = "tenant_id, day, key_id, jobs, bytes, device_seconds"
        session.execute(text(f"INSERT INTO usage_days ({counted}) SELECT {counted} FROM usage_entries"))
        ids = {tenant.name: tenant.id for tenant in session.scalars(select(Tenant))}
    return ids["one"], ids["other"]


@pytest.fixture
def seeing_one(connect: Callable[[str], Database], tenants: tuple[UUID, UUID]) -> Iterator[Session]:
    """A transaction of the API's role that was begun for the first tenant."""
    with connect(API_ROLE).begin() as session:
        show_tenant(session, tenants[0])
        yield session
        session.rollback()


def test_every_table_of_a_tenants_has_the_wall_for_the_role_of_the_api(connect: Callable[[str], Database]) -> None:
    with connect(API_ROLE).begin() as session:
        guarded = select(func.row_security_active(func.unnest(WALLED)))
        assert session.scalars(guarded).all() == [True] * len(WALLED)
        ruled = session.scalars(text("SELECT tablename FROM pg_policies WHERE policyname = 'tenant'")).all()
    assert sorted(ruled) == WALLED
    for table in OF_NO_TENANT:
        assert not {"tenant_id", "job_id", "delivery_id"} & {*Base.metadata.tables[table].columns.keys()}


def test_every_table_and_view_is_somebodys_or_nobodys_on_purpose(connect: Callable[[str], Database]) -> None:
    granted = {name for rights in RIGHTS.values() for name in rights} - {"alembic_version"}
    database = connect(API_ROLE)
    assert granted == Base.metadata.tables.keys() | {*inspect(database.engine).get_view_names()}


@pytest.mark.parametrize("table", OWNED)
def test_without_a_tenant_there_are_no_rows(
    connect: Callable[[str], Database], tenants: tuple[UUID, UUID], table: str
) -> None:
    with connect(API_ROLE).begin() as session:
        assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 0


@pytest.mark.parametrize("table", OWNED)
def test_a_statement_that_names_no_tenant_sees_the_rows_of_one(api: ApiWorld, seeing_one: Session, table: str) -> None:
    seen = seeing_one.scalar(text(f"SELECT count(*) FROM {table}"))
    with api.around.database.begin() as session:
        assert (seen, session.scalar(text(f"SELECT count(*) FROM {table}"))) == (1, 2)


def test_the_right_of_a_transaction_ends_with_it(
    connect: Callable[[str], Database], tenants: tuple[UUID, UUID]
) -> None:
    database = connect(API_ROLE)  # one connection, used twice
    with database.begin() as session:
        show_tenant(session, tenants[0])
        assert session.scalar(select(func.count()).select_from(JobRow)) == 1
    with database.begin() as session:
        assert session.scalar(select(func.count()).select_from(JobRow)) == 0


def test_queries_that_have_lost_their_filter_leak_nothing(
    api: ApiWorld, tenants: tuple[UUID, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = select(JobRow, ResultRow).outerjoin(ResultRow, ResultRow.job_id == JobRow.id)
    monkeypatch.setattr(queries, "_jobs", lambda _tenant_id: everything)
    foreign = api.one.get("/v1/jobs").json["items"]
    own = api.other.get("/v1/jobs").json["items"]
    assert (len(foreign), len(own)) == (1, 1)
    assert api.other.get(f"/v1/jobs/{foreign[0]['id']}").status_code == 404
    with api.around.database.begin() as session:  # the owner's transaction has no wall: the filter is really gone
        assert len(session.execute(everything).all()) == 2


def test_nothing_can_be_written_for_another_tenant(seeing_one: Session, tenants: tuple[UUID, UUID]) -> None:
    for statement in (
        "UPDATE jobs SET priority = 9 WHERE tenant_id = :other",
        "DELETE FROM webhook_endpoints WHERE tenant_id = :other",
        "UPDATE webhook_deliveries SET body = '' WHERE tenant_id = :other",
    ):
        done = seeing_one.execute(text(statement), {"other": tenants[1]})
        assert done.rowcount == 0, statement  # type: ignore[attr-defined]
    seeing_one.add(WebhookEndpoint(id=uuid4(), tenant_id=tenants[1], url="x", event_types=[], secret_encrypted=b""))
    with pytest.raises(ProgrammingError, match="row-level security"):
        seeing_one.flush()


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (API_ROLE, "UPDATE results SET prediction = 'REAL'"),
        (API_ROLE, "INSERT INTO results (job_id, attempt) VALUES (gen_random_uuid(), 1)"),
        (API_ROLE, "UPDATE api_keys SET priority = 100"),
        (API_ROLE, "INSERT INTO tenants (id, name) VALUES (gen_random_uuid(), 'mine')"),
        (API_ROLE, "DELETE FROM webhook_attempts"),
        (API_ROLE, "ALTER TABLE jobs DISABLE ROW LEVEL SECURITY"),
        (API_ROLE, "DROP POLICY tenant ON jobs"),
        (API_ROLE, f"SET ROLE {WORKER_ROLE}"),
        (API_ROLE, "CREATE TABLE mine (id int)"),
        (WORKER_ROLE, "SELECT * FROM api_keys"),
        (WORKER_ROLE, "UPDATE results SET prediction = 'REAL'"),
        (WORKER_ROLE, "INSERT INTO jobs (id) VALUES (gen_random_uuid())"),
        (WORKER_ROLE, "DELETE FROM tenants"),
    ],
)
def test_a_role_may_do_no_more_than_its_process_does(
    connect: Callable[[str], Database], tenants: tuple[UUID, UUID], role: str, statement: str
) -> None:
    with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"), connect(role).begin() as session:
        session.execute(text(statement))


def test_a_key_is_seen_by_its_tenant_and_by_whoever_knows_it(
    api: ApiWorld, connect: Callable[[str], Database], tenants: tuple[UUID, UUID]
) -> None:
    database = connect(API_ROLE)
    with database.begin() as session:
        assert session.scalar(text("SELECT count(*) FROM api_keys")) == 0
        show_tenant(session, tenants[0])
        assert session.scalars(text("SELECT DISTINCT tenant_id FROM api_keys")).all() == [tenants[0]]
    with database.begin() as session:
        found = authenticate(session, api.around.vault, api.one.key)
        assert found is not None
        assert found.tenant_id == tenants[0]
        assert session.scalar(text("SELECT count(*) FROM api_keys")) == 1


def test_a_worker_carries_the_jobs_of_all_tenants_under_its_role(
    api: ApiWorld, connect: Callable[[str], Database]
) -> None:
    api.one.submit()
    api.other.submit()
    for visitor in (api.one, api.other):
        visitor.add_endpoint()
    owner, api.around = api.around, replace(api.around, database=connect(WORKER_ROLE))
    api.succeed_next()
    api.fail_next()
    assert sweeping.sweep(api.around.database, max_attempts=3) is not None
    with owner.database.begin() as session:
        assert sorted(session.scalars(select(JobRow.state))) == ["failed", "succeeded"]
        assert session.scalar(text("SELECT count(*) FROM webhook_deliveries")) == 2


def test_sums_over_all_tenants_are_shown_and_nothing_of_whose_they_are(api: ApiWorld) -> None:
    api.one.submit()
    api.other.submit()
    assert 'distildire_jobs{state="queued"} 2.0' in api.anonymous.get("/metrics").text
    with api.around.database.begin() as session:
        for view, shown in (
            ("job_states", {"state", "created_at", "deadline_at", "finished_at"}),
            ("delivery_states", {"state", "next_attempt_at"}),
        ):
            assert {column["name"] for column in inspect(session.connection()).get_columns(view)} == shown


def test_roles_can_be_prepared_again_and_keep_no_right_that_they_should_not_have(
    api: ApiWorld, connect: Callable[[str], Database], tenants: tuple[UUID, UUID]
) -> None:
    with api.around.database.begin() as session:
        session.execute(text(f"GRANT UPDATE ON results TO {API_ROLE}"))
    prepare_roles(api.around.database.engine.url.render_as_string(hide_password=False), {})
    with pytest.raises(ProgrammingError, match="permission denied"), connect(API_ROLE).begin() as session:
        session.execute(text("UPDATE results SET prediction = 'REAL'"))


@pytest.mark.slow
def test_the_wall_costs_little(api: ApiWorld, connect: Callable[[str], Database], tenants: tuple[UUID, UUID]) -> None:
    """Run with -s for the figures: medians in milliseconds as owner and under the role, with 40,000 jobs."""
    with api.around.database.begin() as session:
        for tenant in tenants:
            session.execute(_MANY, {"tenant": tenant})
        session.execute(text("ANALYZE"))
    tally.fold(api.around.database)
    owner, as_api, as_worker = api.around.database, connect(API_ROLE), connect(WORKER_ROLE)
    model = api.around.settings.model

    def claim(database: Database) -> None:
        claiming.claim(database, worker="w", model=model, lease=timedelta(seconds=30))

    def page(database: Database) -> None:
        with database.begin() as session:
            if database is as_api:
                show_tenant(session, tenants[0])
            assert len(queries.list_jobs(session, tenants[0], queries.JobFilter(), after=None, limit=50).rows) == 50

    for name, work, role in (("claim", claim, as_worker), ("page of 50 jobs", page, as_api)):
        plain, walled = _medians(lambda work=work: work(owner), lambda work=work, role=role: work(role))  # type: ignore[misc]
        print(f"{name}: {plain:.2f} ms as owner, {walled:.2f} ms under the role")  # noqa: T201
        assert walled < 2 * plain + 2


_MANY = text("""
INSERT INTO jobs (id, tenant_id, deadline_at, pictures, metadata, source_key, source_sha256, source_bytes, media_type)
SELECT gen_random_uuid(), :tenant, now() + interval '1 day', '{}', '{}', 'key', '', 1, 'image/png'
FROM generate_series(1, 20000)
""")


def _medians(*works: Callable[[], None]) -> list[float]:
    """Do each in turn, 200 times; return the median of each in milliseconds."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(200):
        for place, work in enumerate(works):
            began = time.perf_counter()
            work()
            taken[place].append(1000 * (time.perf_counter() - began))
    return [statistics.median(times) for times in taken]
