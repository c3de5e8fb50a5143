"""The sweep of a process, on a real PostgreSQL and Valkey."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import func, update

from deploy.local.services import ServiceUrls
from shared.broker.celery_app import Broker, make_celery
from shared.database.engine import Database
from shared.database.tables import JobRow
from shared.domain import (
    JobOptions,
    NewJob,
    Role,
    WorkerState,
)
from shared.jobs import claiming, lifecycle
from shared.workers import registry
from shared.workers.registry import WorkerIdentity, WorkerStatus
from tests.support.service_settings import settings_for
from worker.maintenance.sweeper import Sweeper

WITHOUT = WorkerIdentity("without", Role.ANALYSIS, "host", 1, None, None, "1.0")
WITH = WorkerIdentity("with", Role.ANALYSIS, "host", 2, None, None, "1.0")


def beat(database: Database, worker: WorkerIdentity, *policies: str) -> None:
    registry.beat(database, worker, WorkerStatus(WorkerState.READY, model="M", policies=policies), age=timedelta(0))


def test_a_fleet_in_which_one_worker_has_the_policy_may_be_silent_for_seconds(
    services: ServiceUrls, database: Database, tenant: UUID
) -> None:
    broker = Broker(make_celery(settings_for(services)))
    sweepers = [Sweeper(database, broker, max_attempts=3) for _ in range(2)]
    impatient = Sweeper(database, broker, max_attempts=3, unserved=timedelta(0))
    job_id = uuid4()
    with database.begin() as session:
        new = NewJob(job_id, tenant, "key", "00" * 32, 5, "image/png", JobOptions(policy="strict"))
        lifecycle.create(session, new, deadline=timedelta(hours=1))
        session.execute(update(JobRow).values(created_at=func.now() - timedelta(hours=1)))
    beat(database, WITHOUT)
    beat(database, WITH, "strict")
    impatient.sweep()
    registry.leave(database, WITH)  # it starts anew

    def state() -> str:
        assert claiming.claim(database, worker="without", model="M", lease=timedelta(minutes=1)) is None
        for sweeper in sweepers:
            sweeper.sweep()
        with database.begin() as session:
            return str(session.get_one(JobRow, job_id).state)

    assert state() == "queued"
    beat(database, WITHOUT)
    assert state() == "queued"
    impatient.sweep()
    assert state() == "failed"
