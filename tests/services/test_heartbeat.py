"""Leases, on a real PostgreSQL: who keeps them and who learns that they are lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from shared.database.engine import Database
from shared.database.tables import JobRow, Tenant
from shared.domain import NewJob, Stage
from shared.jobs import claiming, lifecycle
from tests.support.ports import free_ports
from worker.jobs.attempt import RunningAttempt, RunningAttempts
from worker.jobs.heartbeat import Heartbeat

SHORT, LONG = timedelta(seconds=0.01), timedelta(minutes=5)


@pytest.fixture
def attempts() -> RunningAttempts:
    return RunningAttempts()


@pytest.fixture
def attempt(database: Database, attempts: RunningAttempts) -> Iterator[RunningAttempt]:
    """A job that this process runs."""
    with database.begin() as session:
        tenant = Tenant(name="a")
        session.add(tenant)
        session.flush()
        new = NewJob(uuid4(), tenant.id, "source", "00" * 32, 5, "image/png")
        lifecycle.create(session, new, deadline=timedelta(hours=1))
    job = claiming.claim(database, worker="w", model="M", lease=timedelta(seconds=30))
    assert job is not None
    with ExitStack() as stack:
        yield stack.enter_context(attempts.running(job))


def lease_until(database: Database, job_id: UUID) -> datetime | None:
    with database.begin() as session:
        return session.scalars(select(JobRow.lease_until).where(JobRow.id == job_id)).one()


def test_beat_extends_the_lease_and_notes_the_stage(
    database: Database, attempts: RunningAttempts, attempt: RunningAttempt
):
    before = lease_until(database, attempt.job.id)
    attempt.enter(Stage.RENDERING)
    Heartbeat(database, attempts, lease=LONG).beat()
    after = lease_until(database, attempt.job.id)
    assert before is not None
    assert after is not None
    assert after - before > timedelta(minutes=4)
    with database.begin() as session:
        assert session.get_one(JobRow, attempt.job.id).stage == "rendering"
    assert not attempt.lost


def test_beat_tells_an_attempt_that_its_job_was_canceled(
    database: Database, attempts: RunningAttempts, attempt: RunningAttempt
):
    with database.begin() as session:
        lifecycle.cancel(session, attempt.job.tenant_id, attempt.job.id)
    Heartbeat(database, attempts, lease=LONG).beat()
    assert attempt.lost


def test_stage_that_takes_too_long_loses_its_lease(
    database: Database, attempts: RunningAttempts, attempt: RunningAttempt
):
    before = lease_until(database, attempt.job.id)
    Heartbeat(database, attempts, lease=LONG, stage_seconds=0).beat()
    assert attempt.lost
    assert lease_until(database, attempt.job.id) == before


@pytest.mark.parametrize("stage", [Stage.DIFFUSING, Stage.CLASSIFYING])
def test_time_on_the_device_is_the_batchers_to_limit(
    database: Database, attempts: RunningAttempts, attempt: RunningAttempt, stage: Stage
):
    attempt.enter(stage)
    Heartbeat(database, attempts, lease=LONG, stage_seconds=0).beat()
    assert not attempt.lost


@pytest.mark.parametrize(("lease", "lost"), [(SHORT, True), (LONG, False)])
def test_database_that_is_away_for_a_lease_loses_the_jobs(
    attempts: RunningAttempts, attempt: RunningAttempt, lease: timedelta, lost: bool
):
    (closed_port,) = free_ports(1)
    heartbeat = Heartbeat(Database(f"postgresql://u:p@127.0.0.1:{closed_port}/d"), attempts, lease=lease)
    assert not attempt.wait_lost(lease.total_seconds() if lost else 0)
    heartbeat.beat()
    assert attempt.lost is lost
