"""Wake-ups, on a real Valkey and on one that is frozen or away."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit
from uuid import uuid4

from redis import Redis

from deploy.local.services import ServiceUrls
from shared.broker import ANALYZE, Broker, make_celery
from tests.service_settings import settings_for


def broker(services: ServiceUrls, redis_url: str) -> Broker:
    return Broker(make_celery(settings_for(services, redis_url=redis_url)))


def test_a_wake_up_is_json_with_a_lifetime_and_the_jobs_id_alone(services: ServiceUrls) -> None:
    queue = f"test-{uuid4()}"
    bell = broker(services, services.redis_url)
    assert bell.wake(queue, ANALYZE, "the-id")
    assert bell.waiting(queue) == 1
    raw = Redis.from_url(services.redis_url).lpop(queue)
    assert isinstance(raw, bytes)
    message = json.loads(raw)
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == "worker.analyze"
    assert message["headers"]["expires"]
    assert message["headers"]["kwargsrepr"] == "{'reference': 'the-id'}"


def test_a_redis_that_is_away_costs_the_wake_up_and_no_time(services: ServiceUrls) -> None:
    bell = broker(services, "redis://127.0.0.1:1/0")
    started = time.monotonic()
    assert not bell.wake("q", ANALYZE)
    assert time.monotonic() - started < 3
    assert bell.waiting("q") is None


def test_a_frozen_redis_is_given_up_on_after_seconds(services: ServiceUrls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # accepts, and never answers
        port = frozen.getsockname()[1]
        bell = broker(services, urlsplit(services.redis_url)._replace(netloc=f"127.0.0.1:{port}").geturl())
        started = time.monotonic()
        assert not bell.wake("q", ANALYZE)
        assert time.monotonic() - started < 10


def test_a_crowd_before_a_frozen_redis_is_told_no_and_meets_no_error(services: ServiceUrls) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as frozen, ThreadPoolExecutor(32) as crowd:
        bell = broker(services, f"redis://127.0.0.1:{frozen.getsockname()[1]}/0")
        started = time.monotonic()
        assert not any(crowd.map(lambda _: bell.wake("q", ANALYZE), range(32)))
        assert time.monotonic() - started < 20
