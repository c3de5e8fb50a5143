"""The way to the object store while it spoils what passes: nothing wrong is kept, taken for right, or waited for."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from io import BytesIO
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from deploy.local.services import ServiceUrls
from shared.broker.celery_app import Broker, make_celery
from shared.database.engine import Database
from shared.domain import ClaimedJob, JobOptions, ModelIdentity
from shared.errors import ErrorCode, JobError, ObjectMissingError, StoreUnavailableError
from shared.storage.object_store import BRIEF_SECONDS, ObjectStore, source_key
from tests.chaos.proxy import Behaviour, StoreProxy
from tests.support.ports import free_ports
from tests.support.service_settings import settings_for
from worker.inference.batcher import Batcher
from worker.jobs.attempt import RunningAttempt
from worker.jobs.pipeline import Analyzer, ServedModel
from worker.sandbox.sandbox import Sandbox


@pytest.fixture
def direct(services: ServiceUrls) -> ObjectStore:
    return ObjectStore(settings_for(services))


@pytest.fixture
def proxy(services: ServiceUrls) -> Iterator[StoreProxy]:
    upstream = urlsplit(services.s3_endpoint).port
    assert upstream is not None
    proxy = StoreProxy(free_ports(1)[0], upstream, seed=1)
    yield proxy
    proxy.close()


@pytest.fixture
def store(services: ServiceUrls, proxy: StoreProxy) -> ObjectStore:
    return ObjectStore(settings_for(services, s3_endpoint=f"http://127.0.0.1:{proxy.port}"), silence=BRIEF_SECONDS)


@pytest.mark.parametrize("way", [Behaviour.WRONG_REQUEST, Behaviour.CUT_REQUEST])
@pytest.mark.parametrize("size", [5000, pytest.param(12_000_000, id="in several parts")])
def test_what_does_not_arrive_as_it_was_sent_is_not_kept(
    store: ObjectStore, direct: ObjectStore, proxy: StoreProxy, way: Behaviour, size: int
):
    key = source_key(uuid4(), uuid4())
    proxy.misbehave(way, share=1.0)
    with pytest.raises(StoreUnavailableError):
        store.put(key, BytesIO(bytes(size)), size, "image/png")
    with pytest.raises(ObjectMissingError):
        direct.get(key)


def test_an_answer_that_is_cut_short_is_not_taken_for_whole(store: ObjectStore, proxy: StoreProxy):
    key = source_key(uuid4(), uuid4())
    store.put(key, BytesIO(bytes(5000)), 5000, "image/png")
    proxy.misbehave(Behaviour.CUT_ANSWER, share=1.0)
    with pytest.raises(StoreUnavailableError):
        store.get(key)


def test_a_request_learns_of_a_silent_store_in_three_seconds(store: ObjectStore, proxy: StoreProxy):
    proxy.misbehave(Behaviour.SILENT, share=1.0)
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        store.put("silent", BytesIO(bytes(5000)), 5000, "image/png")
    assert time.monotonic() - began < 3


def test_while_the_store_is_silent_one_waits_and_the_others_are_told_at_once(store: ObjectStore, proxy: StoreProxy):
    proxy.misbehave(Behaviour.SILENT, share=1.0)
    with pytest.raises(StoreUnavailableError):
        store.ping()
    with ThreadPoolExecutor(8) as callers:
        waited = sorted(callers.map(lambda _: seconds_of(store), range(8)))
    assert waited[-2] < 1 < waited[-1]
    proxy.behave()
    time.sleep(BRIEF_SECONDS)  # until somebody may ask again
    store.ping()


def seconds_of(store: ObjectStore) -> float:
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        store.ping()
    return time.monotonic() - began


@pytest.fixture
def analyzer(services: ServiceUrls, store: ObjectStore) -> Analyzer:
    """One that only fetches here."""
    settings = settings_for(services)
    return Analyzer(
        database=Database(services.database_url),
        store=store,
        sandbox=Sandbox(),
        batcher=Batcher(lambda _images, _tell: [], max_batch=1, wait_seconds=0),
        broker=Broker(make_celery(settings)),
        served=ServedModel(ModelIdentity("M", "00" * 32, demonstration=True, device="cpu", precision="fp32"), 32, 0.5),
        store_wait_seconds=2,
    )


def stored(direct: ObjectStore) -> RunningAttempt:
    """An attempt at a job whose image is in the store."""
    data = bytes(5000)
    digest = hashlib.sha256(data).hexdigest()
    job = ClaimedJob(uuid4(), uuid4(), 1, False, "spoilt/source", digest, datetime.now(UTC), JobOptions(pictures=()))
    direct.put(job.source_key, BytesIO(data), len(data), "image/png")
    return RunningAttempt(job)


def test_an_image_that_is_spoilt_on_its_way_is_fetched_again(
    analyzer: Analyzer, direct: ObjectStore, proxy: StoreProxy
):
    attempt = stored(direct)
    proxy.misbehave(Behaviour.WRONG_ANSWER, share=1.0)
    threading.Timer(0.2, proxy.behave).start()  # the second try comes half a second after the first
    assert analyzer.fetch(attempt) == bytes(5000)


def test_an_image_that_stays_spoilt_fails_its_job(analyzer: Analyzer, direct: ObjectStore, proxy: StoreProxy):
    attempt = stored(direct)
    proxy.misbehave(Behaviour.WRONG_ANSWER, share=1.0)
    with pytest.raises(JobError) as raised:
        analyzer.fetch(attempt)
    assert raised.value.code is ErrorCode.INTERNAL
