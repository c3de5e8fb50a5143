"""Wake-ups, on a real Valkey and on one that is frozen or away."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from kombu import Message, Queue
from redis import Redis

from deploy.local.credentials import load_credentials
from deploy.local.processes import ChildProcess
from deploy.local.servers import ValkeyServer, valkey_url
from deploy.local.services import ServiceUrls
from shared.broker.celery_app import ANALYZE, Broker, make_celery
from shared.broker.redis_transport import is_wake_up
from tests.support.ports import free_ports
from tests.support.receivers import Authority
from tests.support.service_settings import settings_for


def broker(services: ServiceUrls, redis_url: str) -> Broker:
    return Broker(make_celery(settings_for(services, redis_url=redis_url)))


def test_a_wake_up_is_json_with_a_lifetime_and_the_jobs_id_alone(services: ServiceUrls) -> None:
    queue = f"test-{uuid4()}"
    wakeups = broker(services, services.redis_url)
    assert wakeups.wake(queue, ANALYZE, "the-id")
    assert wakeups.waiting(queue) == 1
    raw = Redis.from_url(services.redis_url).lpop(queue)
    assert isinstance(raw, bytes)
    message = json.loads(raw)
    assert is_wake_up(message)
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == "worker.analyze"
    assert message["headers"]["expires"]
    assert message["headers"]["kwargsrepr"] == "{'reference': 'the-id'}"


def test_a_redis_that_is_away_costs_the_wake_up_and_no_time(services: ServiceUrls) -> None:
    wakeups = broker(services, "redis://127.0.0.1:1/0")
    started = time.monotonic()
    assert not wakeups.wake("q", ANALYZE)
    assert time.monotonic() - started < 3
    assert wakeups.waiting("q") is None


def test_a_frozen_redis_is_given_up_on_after_seconds(services: ServiceUrls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # accepts, and never answers
        port = frozen.getsockname()[1]
        wakeups = broker(services, urlsplit(services.redis_url)._replace(netloc=f"127.0.0.1:{port}").geturl())
        started = time.monotonic()
        assert not wakeups.wake("q", ANALYZE)
        assert time.monotonic() - started < 10


def test_a_crowd_before_a_frozen_redis_is_told_no_and_meets_no_error(services: ServiceUrls) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as frozen, ThreadPoolExecutor(32) as crowd:
        wakeups = broker(services, f"redis://127.0.0.1:{frozen.getsockname()[1]}/0")
        started = time.monotonic()
        assert not any(crowd.map(lambda _: wakeups.wake("q", ANALYZE), range(32)))
        assert time.monotonic() - started < 20


def test_a_message_that_outlives_its_connection_is_no_bug_of_celerys(services: ServiceUrls, tmp_path: Path) -> None:
    valkey = ValkeyServer(tmp_path, tmp_path / "valkey.log")
    own = replace(load_credentials(tmp_path), ports={valkey.name: free_ports(1)[0]})
    valkey.prepare(own)
    server = ChildProcess(valkey.program(own))
    server.wait_until(lambda: valkey.is_ready(own), 30)
    with make_celery(settings_for(services, redis_url=valkey_url(own))).connection_for_read() as connection:
        lost = connection.connection_errors
        received: list[Message] = []
        consumer = connection.Consumer(Queue("q"), on_message=received.append)
        wake_up: dict[str, Any] = {"body": ([], {}, {}), "headers": {"id": "1", "task": ANALYZE}}
        connection.Producer().publish(**wake_up, routing_key="q", declare=consumer.queues)
        consumer.consume()
        connection.Consumer(Queue("control"), channel=connection.channel()).consume()  # Celery has such a one too
        while not received:
            connection.drain_events(timeout=5)
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=0.1)  # now it listens, and the message's task is under way
        os.kill(server.pid, signal.SIGKILL)
        server.exit_report()
        with contextlib.suppress(*lost):
            connection.collect()
        with contextlib.suppress(*lost):  # the rest ends the worker
            connection.close()
        with pytest.raises(lost):
            received[0].ack()


def test_a_redis_behind_tls_must_show_a_certificate_that_somebody_vouches_for(
    services: ServiceUrls, tmp_path: Path
) -> None:
    context = Authority(tmp_path).server("localhost")
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        port = listener.getsockname()[1]
        greeted = pool.submit(_handshake, listener, context)
        assert not broker(services, f"rediss://localhost:{port}/0").wake("q", ANALYZE)
        assert greeted.result(10) is False


def _handshake(listener: socket.socket, context: ssl.SSLContext) -> bool:
    """Return whether the next client trusts us."""
    connection, _ = listener.accept()
    with contextlib.closing(connection):
        connection.settimeout(5)
        try:
            with context.wrap_socket(connection, server_side=True) as greeted:
                return bool(greeted.recv(1))
        except OSError:
            return False


@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"])
def test_the_environment_does_not_choose_the_redis(services: ServiceUrls, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "redis://127.0.0.1:1/9")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://127.0.0.1:1/9")
    app = make_celery(settings_for(services))
    assert Broker(app).wake("elsewhere", ANALYZE)
    for connection in (app.connection_for_read(), app.connection_for_write()):
        assert connection.as_uri(include_password=True).rstrip("/") == services.redis_url
    assert app.conf.result_backend is None
