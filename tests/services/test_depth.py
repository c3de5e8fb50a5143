"""What each statement reads is bounded, however many jobs there are, have been, or passed while a snapshot was held.

The API and the workers act in their own roles, as they are deployed: policies of rows change plans.

Rows and blocks are counted, which no other process moves, and not seconds. `pytest -m slow -s` prints them at a million
finished jobs, a hundred thousand that wait and a thousand tenants; the same bounds hold for what `make test` fills.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

from deploy.local.services import ServiceUrls
from shared.database import pagination
from shared.database.engine import Database
from shared.database.row_level_security import API_ROLE, WORKER_ROLE
from shared.domain import ClaimedJob, JobState, NewJob, Stage
from shared.errors import ErrorCode, JobError
from shared.jobs import claiming, lifecycle, queries, retention, sweeping, tally
from shared.jobs.admission import Admission, FullError, OpenLimits
from shared.jobs.stats import newest_jobs, service_stats
from shared.webhooks import endpoints
from shared.webhooks.deliveries import ClaimedDelivery, Try, claim_due, is_due, record_try
from shared.webhooks.queries import list_deliveries
from shared.webhooks.retry_schedule import Decision, Delivered, Retry
from shared.workers import registry
from tests.support.databases import as_role, fresh_database
from tests.support.plans import StatementLog, explain_statements

LEASE = timedelta(hours=1)


@dataclass(frozen=True)
class Depth:
    """How much there is, and how much passes while a snapshot is held."""

    finished: int
    queued: int
    tenants: int
    delivered: int
    pending: int
    passing: int


SHALLOW = Depth(finished=30_000, queued=6_000, tenants=100, delivered=10_000, pending=3_000, passing=3_000)
DEEP = Depth(finished=1_000_000, queued=100_000, tenants=1_000, delivered=300_000, pending=100_000, passing=40_000)
#: Rows and blocks that a call may read: what it is about, what moved since the last fold, and for some each tenant that
#: has something waiting, in a row of its own.
FEW, BY_TENANT = (2_500, 1_500), (12_000, 3_000)
#: A page of what is open: what moved since the last fold, and each row of the page by its id.
PAGE = (2_500, 1_200)
#: For what finds the newest row of each tenant: three blocks of an index for each, and a few more.
EACH_TENANT = (12_000, 3_500)
#: What is counted up to ten thousand, each with a block of its own at most.
COUNTED = (12_000, 12_000)

_FILL = (
    "INSERT INTO tenants (id, name) SELECT gen_random_uuid(), 'tenant ' || n FROM generate_series(1, :tenants) AS n",
    """
    INSERT INTO jobs (id, tenant_id, state, attempt, created_at, deadline_at, finished_at, pictures, metadata,
                      source_key, source_sha256, source_bytes, media_type, prediction, client_ref)
    SELECT gen_random_uuid(), known.ids[1 + n % :tenants], CASE WHEN n > :queued THEN 'succeeded' ELSE 'queued' END,
           (n > :queued)::int, now() - n * interval '86 ms', now() + interval '30 days' - n * interval '86 ms',
           CASE WHEN n > :queued THEN now() - n * interval '80 ms' END, '{}', '{}', 'key', 'digest', 1, 'image/png',
           CASE WHEN n > :queued THEN 'FAKE' END, 'ref ' || n
    FROM (SELECT array_agg(id) AS ids FROM tenants) AS known, generate_series(1, :queued + :finished) AS n
    """,
    """
    INSERT INTO results (job_id, attempt, prediction, confidence, probability_fake, threshold, processing_time, width,
                         height, analyzed_region, media_type, model_name, weights_sha256, demonstration, timings,
                         caveats, feature_mean, feature_height, feature_width, artifacts)
    SELECT id, 1, 'FAKE', 1, 1, 0.5, 1, 8, 8, '{"x": 0, "y": 0, "width": 8, "height": 8}', 'image/png', 'M',
           'digest', true, '{}', '{}', '', 2, 2, '{}'
    FROM jobs WHERE state = 'succeeded' LIMIT :finished / 10
    """,
    """
    INSERT INTO webhook_endpoints (id, tenant_id, url, event_types, secret_encrypted)
    SELECT gen_random_uuid(), id, 'https://receiver.test/', '{job.canceled}', '' FROM tenants
    """,
    """
    INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, job_id, event_type, body, state, next_attempt_at,
                                    created_at, finished_at)
    SELECT gen_random_uuid(), job.tenant_id, endpoint.id, job.id, 'job.canceled', 'a body',
           CASE WHEN n > :pending THEN 'delivered' ELSE 'pending' END,
           CASE WHEN n > :pending THEN NULL ELSE job.finished_at END, job.finished_at,
           CASE WHEN n > :pending THEN job.finished_at END
    FROM (
        SELECT id, tenant_id, finished_at, row_number() OVER (ORDER BY finished_at DESC) AS n FROM jobs
        WHERE state = 'succeeded' ORDER BY finished_at DESC LIMIT :delivered + :pending
    ) AS job JOIN webhook_endpoints AS endpoint ON endpoint.tenant_id = job.tenant_id
    """,
)
_INDEXES = text("""
SELECT indexname AS name, indexdef AS made_by FROM pg_indexes
WHERE tablename IN ('jobs', 'webhook_deliveries') AND indexname NOT LIKE '%_pkey'
""")


def _fill(url: str, depth: Depth) -> None:
    """Fast: without the triggers, the tally being counted afterwards, and with the indexes made last."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg2"), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        indexes = connection.execute(_INDEXES).all()
        for index in indexes:
            connection.execute(text(f"DROP INDEX {index.name}"))
        for statement in _FILL:
            connection.execute(text(statement), vars(depth))
        for index in indexes:
            connection.execute(text(index.made_by))
        connection.execute(text("SELECT count_anew()"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


class World:
    """A service at depth: what its processes do, one call at a time."""

    def __init__(self, url: str) -> None:
        explain_statements(url, [API_ROLE, WORKER_ROLE])
        self.watched = StatementLog()
        with Database(url) as owner, owner.begin() as session:
            self.tenant = session.scalars(text("SELECT id FROM tenants ORDER BY id LIMIT 1")).one()
            self.endpoint = session.scalars(text(_PROMPT), {"tenant": self.tenant}).one()
            self.others = [*session.execute(text(_OTHERS), {"tenant": self.tenant})]
        self.api = self.watched.watch(Database(as_role(url, API_ROLE), tenant=lambda: self.tenant))
        self.worker = self.watched.watch(Database(as_role(url, WORKER_ROLE)))
        self.jobs: list[ClaimedJob] = []
        self.deliveries: list[ClaimedDelivery] = []

    def close(self) -> None:
        self.api.close()
        self.worker.close()

    def submit(self) -> UUID:
        """As the API does."""
        job_id = uuid4()
        admission = Admission(self.api, OpenLimits(1_000_000, 1_000_000))  # a new one remembers no count
        with self.api.begin() as session:
            admission.check_tenant(session, self.tenant)
        admission.check_service()
        with self.api.begin() as session:
            admission.hold_tenant(session, self.tenant)
            new = NewJob(job_id, self.tenant, "key", "digest", 1, "image/png", priority=1)
            lifecycle.create(session, new, deadline=timedelta(days=1))
        return job_id

    def refuse(self) -> None:
        full = Admission(self.api, OpenLimits(1, 1))
        with pytest.raises(FullError), self.api.begin() as session:
            full.check_tenant(session, self.tenant)
        with pytest.raises(FullError):
            full.check_service()

    def claim(self, most: int) -> None:
        taken = claiming.claim_several(self.worker, worker="w", model="M", lease=LEASE, most=most)
        assert len(taken) == most
        self.jobs += taken

    def cancel(self) -> None:
        with self.api.begin() as session:
            assert lifecycle.cancel(session, self.tenant, self.submit()) is not None

    def poll(self, job_id: UUID) -> None:
        with self.api.begin() as session:
            queries.find_job(session, self.tenant, job_id)

    def page(self, after: pagination.Cursor | None = None, **wanted: Any) -> pagination.Page[queries.JobAndResult]:
        with self.api.begin() as session:
            return queries.list_jobs(session, self.tenant, queries.JobFilter(**wanted), after=after, limit=50)

    def page_of_deliveries(self, **only: UUID | str) -> None:
        with self.api.begin() as session:
            list_deliveries(session, self.tenant, only=only, after=None, limit=50)

    def metrics(self) -> None:
        with self.api.begin() as session:
            service_stats(session)
            registry.list_workers(session)

    def newest(self) -> None:
        with self.worker.begin() as session:
            assert len(newest_jobs(session, 10)) == 10

    def claim_delivery(self) -> None:
        claimed = claim_due(self.worker, lease=LEASE, per_endpoint=1_000)
        assert claimed is not None
        self.deliveries.append(claimed)

    def disable(self) -> None:
        with self.worker.begin() as session:
            assert endpoints.disable_endpoint(session, self.others.pop().id, "Gone.")

    def delete(self) -> None:
        other = self.others.pop()
        with self.worker.begin() as session:
            assert endpoints.delete_endpoint(session, other.tenant_id, other.id)

    def backlog(self) -> None:
        with self.api.begin() as session:
            assert retention.backlog(session, days=0).jobs == 10_000

    def record(self, decision: Decision) -> None:
        with self.worker.begin() as session:
            record_try(session, self.deliveries.pop(), Try(datetime.now(UTC), 1, status=200), decision)


def _calls(world: World) -> dict[str, tuple[Callable[[], object], tuple[int, int]]]:
    """In this order: what a claim takes, others end."""
    later = datetime.now(UTC) + timedelta(minutes=5)
    database = world.worker
    hour_ago, half_hour_ago = (datetime.now(UTC) - timedelta(minutes=minutes) for minutes in (60, 30))

    def newest() -> list[UUID]:
        return [job.id for job in world.jobs[-50:]]

    half_way = pagination.Cursor(datetime.now(UTC) - timedelta(hours=1), uuid4())
    return {
        "submit": (world.submit, FEW),
        "refuse": (world.refuse, FEW),
        "claim of 1": (lambda: world.claim(1), BY_TENANT),
        "claim of 16": (lambda: world.claim(16), BY_TENANT),
        "look for work": (
            lambda: claiming.anything_waits(database, worker="w", model="M", lease=LEASE),
            BY_TENANT,
        ),
        "heartbeat": (
            lambda: lifecycle.heartbeat(
                database, {job.attempt_id: Stage.DECODING for job in world.jobs[-16:]}, lease=LEASE
            ),
            FEW,
        ),
        "begin isolated": (lambda: lifecycle.begin_isolated(database, world.jobs[-1].attempt_id), FEW),
        "fail": (lambda: lifecycle.fail(database, world.jobs.pop().attempt_id, JobError(ErrorCode.INTERNAL)), FEW),
        "give back": (lambda: lifecycle.release(database, [world.jobs.pop().attempt_id for _ in range(8)]), FEW),
        "release_after_device_failure": (
            lambda: lifecycle.release_after_device_failure(database, "another", [], max_attempts=3),
            FEW,
        ),
        "cancel": (world.cancel, FEW),
        "sweep": (lambda: sweeping.sweep(database, max_attempts=3), FEW),
        "poll": (lambda: world.poll(world.jobs[-1].id), FEW),
        "list": (world.page, FEW),
        "list, far back": (lambda: world.page(half_way), FEW),
        "list of queued": (lambda: world.page(states=[JobState.QUEUED]), PAGE),
        "list of running": (lambda: world.page(states=[JobState.RUNNING]), PAGE),
        "list of failed": (lambda: world.page(states=[JobState.FAILED]), FEW),
        "list of all states": (lambda: world.page(states=[*JobState]), PAGE),
        "list of failed or expired": (lambda: world.page(states=[JobState.FAILED, JobState.EXPIRED]), FEW),
        "list by ids": (lambda: world.page(ids=newest()), FEW),
        "list by ids of a prediction": (lambda: world.page(ids=newest(), prediction="FAKE"), FEW),
        "list by a prediction": (lambda: world.page(prediction="FAKE"), FEW),
        "list by a rare prediction": (lambda: world.page(prediction="INCONCLUSIVE"), FEW),
        "list by client_ref": (lambda: world.page(client_ref="ref 7"), FEW),
        "list by client_ref of a prediction": (lambda: world.page(client_ref="ref 7", prediction="FAKE"), FEW),
        "list by client_ref that waits": (lambda: world.page(client_ref="ref 7", states=[JobState.QUEUED]), FEW),
        "list of an hour": (lambda: world.page(created_after=hour_ago, created_before=half_hour_ago), FEW),
        "list of an hour of a rare prediction": (
            lambda: world.page(created_after=hour_ago, created_before=half_hour_ago, prediction="INCONCLUSIVE"),
            FEW,
        ),
        "list of what cannot be": (lambda: world.page(states=[JobState.FAILED], prediction="FAKE"), FEW),
        "metrics": (world.metrics, BY_TENANT),
        "newest jobs": (world.newest, EACH_TENANT),
        "claim of a delivery": (world.claim_delivery, BY_TENANT),
        "look for deliveries": (lambda: is_due(database, per_endpoint=4), BY_TENANT),
        "a try that failed": (lambda: world.record(Retry(later)), FEW),
        "another delivery": (world.claim_delivery, BY_TENANT),
        "a delivery": (lambda: world.record(Delivered()), FEW),
        "deliveries": (world.page_of_deliveries, FEW),
        "deliveries that failed": (lambda: world.page_of_deliveries(state="failed"), FEW),
        "deliveries that wait": (lambda: world.page_of_deliveries(state="pending"), PAGE),
        "deliveries of an endpoint": (lambda: world.page_of_deliveries(endpoint_id=world.endpoint), PAGE),
        "deliveries of an endpoint that failed": (
            lambda: world.page_of_deliveries(endpoint_id=world.endpoint, state="failed"),
            FEW,
        ),
        "disable an endpoint": (world.disable, BY_TENANT),
        "give up": (lambda: _is(endpoints.give_up(database, most=20), 20), BY_TENANT),
        "delete an endpoint": (world.delete, FEW),
        "purge": (lambda: _is(endpoints.purge(database, most=20), 20), BY_TENANT),
        "delete what is old": (lambda: _is(retention.delete_old(database, days=0, most=20), 20), BY_TENANT),
        "backlog of deletions": (world.backlog, COUNTED),
    }


def _is(done: int, expected: int) -> None:
    assert done == expected


def assert_bounded(world: World) -> None:
    """Print what each call reads, and hold it to its bounds."""
    readings = []
    for name, (call, bounds) in _calls(world).items():
        with world.watched.reading() as told:
            call()
        readings.append((name, told[0], bounds))
        sys.stdout.write(f"{name:>40}: {told[0].rows:>6} rows, {told[0].blocks:>6} blocks\n")
    for name, read, (rows, blocks) in readings:
        assert read.rows <= rows, (name, read)
        assert read.blocks <= blocks, (name, read)
        assert not read.whole_tables & {"jobs", "results", "webhook_deliveries"}, (name, read)


def _pass(world: World, owner: Database, count: int) -> None:
    """Have so many jobs of one tenant pass, each with a webhook, while sweeps fold."""
    with owner.begin() as session:  # what waits longer is sent first
        session.execute(text(f"{_ARRIVED} WHERE endpoint_id = :endpoint"), {"endpoint": world.endpoint})
    for _ in range(count // 200):
        with owner.begin() as session:
            session.execute(
                text("""
                INSERT INTO jobs (id, tenant_id, priority, deadline_at, pictures, metadata,
                                  source_key, source_sha256, source_bytes, media_type)
                SELECT gen_random_uuid(), :tenant, 1, now() + interval '1 day', '{}', '{}',
                       'key', 'digest', 1, 'image/png'
                FROM generate_series(1, 200)
                """),
                {"tenant": world.tenant},
            )
        jobs = claiming.claim_several(world.worker, worker="w", model="M", lease=LEASE, most=200)
        assert {job.tenant_id for job in jobs} == {world.tenant}
        ids = {"ids": [job.id for job in jobs], "endpoint": world.endpoint}
        with owner.begin() as session:
            session.execute(text(_END), ids)
            session.execute(text(_TELL), ids)
        with owner.begin() as session:
            session.execute(text(_SEND), ids)
        with owner.begin() as session:
            session.execute(text(f"{_ARRIVED} WHERE job_id = ANY (:ids)"), ids)
        tally.fold(world.worker)


#: A second endpoint, by which nothing waits yet.
_PROMPT = """
INSERT INTO webhook_endpoints (id, tenant_id, url, event_types, secret_encrypted)
VALUES (gen_random_uuid(), :tenant, 'https://prompt.test/', '{job.canceled}', '') RETURNING id
"""
#: By which something waits.
_OTHERS = """
SELECT id, tenant_id FROM webhook_endpoints JOIN tally_waiting('deliveries') AS lane ON lane.owner = id
WHERE tenant_id <> :tenant ORDER BY waiting LIMIT 4
"""
_END = """
UPDATE jobs SET state = 'succeeded', finished_at = now(), lease_until = NULL, stage = NULL WHERE id = ANY (:ids)
"""
_TELL = """
INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, job_id, event_type, body)
SELECT gen_random_uuid(), tenant_id, :endpoint, id, 'job.succeeded', 'a body' FROM jobs WHERE id = ANY (:ids)
"""
_SEND = """
UPDATE webhook_deliveries SET attempt = 1, lease_until = now() + interval '1 h' WHERE job_id = ANY (:ids)
"""
_ARRIVED = """
UPDATE webhook_deliveries SET state = 'delivered', finished_at = now(), lease_until = NULL, next_attempt_at = NULL
"""


@pytest.fixture
def holding() -> Iterator[Callable[[Database], None]]:
    """Hold a snapshot, as a dump does that takes long."""
    with contextlib.ExitStack() as held:

        def hold(database: Database) -> None:
            engine = create_engine(database.engine.url, isolation_level="REPEATABLE READ", poolclass=NullPool)
            connection = held.enter_context(engine.connect())
            assert connection.scalar(text("SELECT count(*) FROM tenants"))

        yield hold


@pytest.mark.parametrize(
    "depth",
    [
        pytest.param(SHALLOW, id="shallow"),
        pytest.param(DEEP, id="deep", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_what_is_read_is_bounded_also_while_a_snapshot_is_held(
    services: ServiceUrls, migrated_database: str, depth: Depth, holding: Callable[[Database], None]
) -> None:
    url = fresh_database(services.database_url, migrated_database)
    _fill(url, depth)
    with contextlib.closing(World(url)) as world, Database(url) as owner:
        assert_bounded(world)
        holding(owner)
        _pass(world, owner, depth.passing)
        sys.stdout.write(f"after {depth.passing} jobs beside a snapshot:\n")
        assert_bounded(world)
