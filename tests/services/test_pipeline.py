"""An outage of the object store is not the job's fault."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from pydantic import SecretStr

from deploy.local.services import ServiceUrls
from shared.broker.celery_app import Broker, make_celery
from shared.database.engine import Database
from shared.database.tables import JobRow, Tenant
from shared.domain import ModelIdentity, NewJob
from shared.errors import StoreUnavailableError
from shared.jobs import claiming, lifecycle
from shared.storage.object_store import ObjectStore
from tests.support.ports import free_ports
from tests.support.service_settings import settings_for
from worker.inference.batcher import Batcher
from worker.jobs.attempt import RunningAttempts
from worker.jobs.pipeline import Analyzer, ServedModel
from worker.sandbox.sandbox import Sandbox


@pytest.fixture
def analyzer(services: ServiceUrls, empty_database: str, database: Database) -> Analyzer:
    """One that gets no further than the store, which is away."""
    (closed_port,) = free_ports(1)
    settings = settings_for(
        services, s3_endpoint=f"http://127.0.0.1:{closed_port}", database_url=SecretStr(empty_database)
    )
    return Analyzer(
        database=database,
        store=ObjectStore(settings),
        sandbox=Sandbox(),
        batcher=Batcher(lambda _images, _tell: [], max_batch=1, wait_seconds=0),
        broker=Broker(make_celery(settings)),
        served=ServedModel(ModelIdentity("M", "00" * 32, demonstration=True, device="cpu", precision="fp32"), 32, 0.5),
        store_wait_seconds=0.5,
    )


def test_job_goes_back_into_the_queue_and_nothing_counts(database: Database, analyzer: Analyzer):
    with database.begin() as session:
        tenant = Tenant(name="a")
        session.add(tenant)
        session.flush()
        new = NewJob(uuid4(), tenant.id, "source", "00" * 32, 5, "image/png")
        lifecycle.create(session, new, deadline=timedelta(hours=1))
    claimed = claiming.claim(database, worker="w", model="M", lease=timedelta(minutes=1))
    assert claimed is not None
    with RunningAttempts().running(claimed) as attempt, pytest.raises(StoreUnavailableError):
        analyzer.run(attempt)  # raises, so that the executor pauses and does not spin
    with database.begin() as session:
        job = session.get_one(JobRow, claimed.id)
    assert (job.state, job.attempt, job.deaths, job.lease_until, job.error_code) == ("queued", 1, 0, None, None)
