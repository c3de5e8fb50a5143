"""What waits for a worker is what a claim would give it: the same condition, asked without a claim."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, update

from shared.database.engine import Database
from shared.database.tables import JobRow, Tenant
from shared.domain import (
    JobOptions,
    NewJob,
    Role,
    WorkerState,
)
from shared.jobs import claiming, lifecycle
from shared.workers import registry
from shared.workers.registry import WorkerIdentity, WorkerStatus
from tests.support.databases import add_tenant

LEASE = timedelta(seconds=30)
DEADLINE = timedelta(hours=1)
POLICIES = (None, "strict", "lenient")
ANOTHER = WorkerIdentity("another", Role.ANALYSIS, "host", 1, None, None, "1")


@pytest.fixture
def read_only(database: Database) -> Iterator[Database]:
    """The same database by connections that may neither write nor lock a row."""
    url = database.engine.url.update_query_dict({"options": "-c default_transaction_read_only=on"})
    with Database(url.render_as_string(hide_password=False)) as reader:
        yield reader


def add_job(database: Database, tenant: UUID, model: str | None = None, policy: str | None = None) -> UUID:
    job_id = uuid4()
    new = NewJob(job_id, tenant, f"{job_id}/source", "00" * 32, 5, "image/png", JobOptions(model=model, policy=policy))
    with database.begin() as session:
        lifecycle.create(session, new, deadline=DEADLINE)
    return job_id


def anything_waits(database: Database, policies: tuple[str, ...] = ()) -> bool:
    return claiming.anything_waits(database, worker="w", model="M", lease=LEASE, policies=policies)


def claim_one(database: Database, policies: tuple[str, ...] = ()) -> bool:
    return claiming.claim(database, worker="w", model="M", lease=LEASE, policies=policies) is not None


def make_a_queue(database: Database, chance: random.Random) -> None:
    """Write jobs of all kinds: for workers with and without their policy, suspects, overdue, failed here before."""
    if chance.random() < 0.5:
        status = WorkerStatus(chance.choice(list(WorkerState)), model=chance.choice([None, "M", "N"]), slots=2)
        registry.beat(database, ANOTHER, status, age=timedelta(0))
    for _ in range(chance.randrange(1, 4)):
        tenant = add_tenant(database, str(uuid4()))
        jobs = [
            add_job(database, tenant, chance.choice([None, "M", "N"]), chance.choice(POLICIES))
            for _ in range(chance.randrange(3))
        ]
        with database.begin() as session:
            session.execute(update(Tenant).where(Tenant.id == tenant).values(policy=chance.choice(POLICIES)))
            for job_id in jobs:
                job = session.get_one(JobRow, job_id)
                job.suspect = chance.random() < 0.4
                job.failed_on = chance.choice([None, "w", "another"])
                job.beat_at = func.now() - timedelta(seconds=chance.choice([0, 10, 25, 60]))
                job.deadline_at = func.now() + timedelta(minutes=chance.choice([-1, 10, 10]))


@pytest.mark.parametrize("seed", range(12))
def test_something_waits_exactly_where_a_claim_finds_a_job(database: Database, read_only: Database, seed: int):
    chance = random.Random(seed)
    make_a_queue(database, chance)
    policies = chance.choice([(), ("strict",), ("strict", "lenient")])
    said, found = [], [True]
    while found[-1]:
        said.append(anything_waits(read_only, policies))
        found.append(claim_one(database, policies))
    assert said == found[1:]


def test_who_asks_waits_for_no_lock_and_counts_a_job_that_is_about_to_be_taken(
    database: Database, read_only: Database, tenant: UUID
):
    job_id = add_job(database, tenant)
    with database.begin() as session:
        session.execute(select(JobRow).where(JobRow.id == job_id).with_for_update())
        assert anything_waits(read_only)
        assert not claim_one(database)
