"""What follows an outcome: the wake-up for its webhooks; where it cannot be written, an end or another attempt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from io import BytesIO
from uuid import UUID, uuid4

import numpy as np
import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from deploy.local.services import ServiceUrls
from shared.broker.celery_app import DELIVER, WEBHOOK_QUEUE, Broker, make_celery
from shared.crypto import Vault
from shared.database.engine import Database
from shared.database.tables import JobRow, Tenant
from shared.domain import JobOptions, ModelIdentity, NewJob
from shared.errors import ObjectMissingError
from shared.jobs import claiming, lifecycle
from shared.storage.object_store import ObjectStore, artifact_key, source_key
from shared.webhooks.endpoints import create_endpoint
from tests.support.bad_images import photograph, saved
from tests.support.service_settings import SECRET_KEY, settings_for
from worker.inference.batcher import Batcher, Floats, Notify, PassResult
from worker.jobs.attempt import RunningAttempt
from worker.jobs.pipeline import Analyzer, ServedModel
from worker.sandbox.sandbox import Sandbox

PHOTOGRAPH = saved(photograph(), "JPEG")
_REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a rule of nobody''s'; END $$;
"""
NO_RESULTS = "CREATE TRIGGER refuse BEFORE INSERT ON results EXECUTE FUNCTION refuse()"
NO_ENDS = (
    "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.finished_at IS NOT NULL) "
    "EXECUTE FUNCTION refuse()"
)


def infer(images: Sequence[Floats], classifying: Notify) -> list[PassResult]:
    """A model's function, in the place of the networks."""
    classifying()
    return [PassResult(np.zeros_like(image), 0.5, np.zeros((1, 1), np.float32)) for image in images]


@pytest.fixture
def store(services: ServiceUrls) -> ObjectStore:
    return ObjectStore(settings_for(services))


@pytest.fixture
def analyzer(services: ServiceUrls, empty_database: str, database: Database, store: ObjectStore) -> Iterator[Analyzer]:
    settings = settings_for(services, database_url=SecretStr(empty_database))
    batcher = Batcher(infer, max_batch=1, wait_seconds=0)
    batcher.start()
    with Sandbox() as sandbox:
        yield Analyzer(
            database=database,
            store=store,
            sandbox=sandbox,
            batcher=batcher,
            broker=Broker(make_celery(settings)),
            served=ServedModel(ModelIdentity("M", "00" * 32, True, "cpu", "fp32"), 32, 0.5),
        )
    batcher.close()


@pytest.fixture
def attempt(database: Database, store: ObjectStore) -> RunningAttempt:
    """An attempt at a good job."""
    with database.begin() as session:
        tenant = Tenant(name="a")
        session.add(tenant)
        session.flush()
        job_id = uuid4()
        key = source_key(tenant.id, job_id)
        store.put(key, BytesIO(PHOTOGRAPH), len(PHOTOGRAPH), "image/jpeg")
        digest = hashlib.sha256(PHOTOGRAPH).hexdigest()
        new = NewJob(job_id, tenant.id, key, digest, len(PHOTOGRAPH), "image/jpeg", JobOptions(pictures=("heatmap",)))
        lifecycle.create(session, new, deadline=timedelta(hours=1))
    job = claiming.claim(database, worker="w", model="M", lease=timedelta(minutes=1))
    assert job is not None
    return RunningAttempt(job)


def forbid(database: Database, rule: str) -> None:
    with database.begin() as session:
        session.execute(text(_REFUSE))
        session.execute(text(rule))


def read(database: Database, job_id: UUID) -> JobRow:
    with database.begin() as session:
        return session.get_one(JobRow, job_id)


def rung_for(services: ServiceUrls, job_id: UUID) -> int:
    """How many wake-ups of the webhook workers name this job."""
    with Redis.from_url(services.redis_url) as redis:
        waiting = redis.lrange(WEBHOOK_QUEUE, 0, -1)
    headers = [json.loads(message)["headers"] for message in waiting]
    assert {each["task"] for each in headers} <= {DELIVER}
    return sum(str(job_id) in each["kwargsrepr"] for each in headers)


@pytest.mark.parametrize(("event", "wake_ups"), [("job.succeeded", 1), ("job.failed", 0)])
def test_an_outcome_wakes_who_sends_webhooks_where_one_is_to_be_sent(
    services: ServiceUrls, database: Database, analyzer: Analyzer, attempt: RunningAttempt, event: str, wake_ups: int
):
    with database.begin() as session:
        vault = Vault(SECRET_KEY)
        create_endpoint(session, vault, attempt.job.tenant_id, "https://receiver.example/", [event])
    analyzer.run(attempt)
    assert read(database, attempt.job.id).state == "succeeded"
    assert rung_for(services, attempt.job.id) == wake_ups


def test_verdict_that_cannot_be_written_is_an_error_of_the_service(
    database: Database, store: ObjectStore, analyzer: Analyzer, attempt: RunningAttempt
):
    forbid(database, NO_RESULTS)
    analyzer.run(attempt)
    job = read(database, attempt.job.id)
    assert (job.state, job.error_code, job.error_retryable, job.deaths) == ("failed", "internal", True, 0)
    with pytest.raises(ObjectMissingError):  # nothing refers to the pictures
        store.get(artifact_key(job.tenant_id, job.id, 1, "heatmap"))


def test_job_that_cannot_even_fail_goes_back_and_the_executor_is_told_to_pause(
    database: Database, analyzer: Analyzer, attempt: RunningAttempt
):
    forbid(database, NO_ENDS)
    with pytest.raises(DBAPIError):
        analyzer.run(attempt)
    job = read(database, attempt.job.id)
    assert (job.state, job.deaths, job.suspect, job.lease_until) == ("queued", 0, False, None)
