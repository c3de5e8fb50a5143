"""Wake-ups wait in a real Valkey while somebody may need them, and never more than the workers have slots."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import schedule
from pydantic import SecretStr
from redis import Redis

from deploy.local.services import ServiceUrls
from shared.broker.celery_app import ANALYSIS_QUEUE, SWEEP, SWEEP_QUEUE, WEBHOOK_QUEUE, Broker, make_celery
from shared.broker.redis_transport import is_wake_up
from shared.broker.wakeups import Wakeups
from shared.database.engine import Database
from shared.database.row_level_security import API_ROLE, WORKER_ROLE
from shared.domain import (
    NewJob,
    Role,
    WorkerState,
)
from shared.jobs import lifecycle
from shared.workers import registry
from shared.workers.registry import WorkerIdentity, WorkerStatus
from tests.support.api_world import ApiWorld
from tests.support.databases import add_tenant, as_role
from tests.support.service_settings import settings_for
from tests.support.waiting import until
from worker.maintenance.sweeper import Sweeper
from worker.process.beat import QuietScheduler

#: Slots that are counted on where no worker is there yet.
OF_ONE = 16


@pytest.fixture
def redis_url(services: ServiceUrls) -> str:
    """Of a database of its own, emptied: other tests send wake-ups too."""
    url = urlsplit(services.redis_url)._replace(path="/7").geturl()
    with Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def app(services: ServiceUrls, redis_url: str) -> Celery:
    return make_celery(settings_for(services, redis_url=redis_url))


@pytest.fixture
def broker(app: Celery) -> Broker:
    return Broker(app)


def fetch(redis_url: str, queue: str) -> object:
    """Take a message as a worker does."""
    with Redis.from_url(redis_url) as client:
        return json.loads(str(client.rpop(queue), "utf-8"))


def appear(database: Database, role: Role, slots: int, state: WorkerState = WorkerState.READY) -> None:
    worker = WorkerIdentity(str(uuid4()), role, "host", 1, None, None, "1.0")
    registry.beat(database, worker, WorkerStatus(state, slots=slots), age=timedelta())


def queue_jobs(database: Database, count: int) -> None:
    """Queue so many jobs."""
    tenant = add_tenant(database, str(uuid4()))
    with database.begin() as session:
        for _ in range(count):
            job = NewJob(uuid4(), tenant, "key", "00" * 32, 5, "image/png")
            lifecycle.create(session, job, deadline=timedelta(hours=1))


@pytest.mark.parametrize("role", [API_ROLE, WORKER_ROLE])
def test_no_more_wake_ups_wait_than_ready_workers_have_slots(
    broker: Broker, redis_url: str, database: Database, empty_database: str, role: str
) -> None:
    for slots in (2, 1):
        appear(database, Role.ANALYSIS, slots)
    appear(database, Role.ANALYSIS, 8, WorkerState.DRAINING)
    appear(database, Role.WEBHOOKS, 5)
    with Database(as_role(empty_database, role)) as own:
        analysis, webhooks = (Wakeups(broker, own, each) for each in (Role.ANALYSIS, Role.WEBHOOKS))
        for number in range(300):
            analysis.send(str(number))
            webhooks.send(str(number))
        assert (broker.waiting(ANALYSIS_QUEUE), broker.waiting(WEBHOOK_QUEUE)) == (3, 5)
        fetch(redis_url, ANALYSIS_QUEUE)
        analysis.send()
        assert broker.waiting(ANALYSIS_QUEUE) == 3


def test_for_workers_that_are_still_to_come_those_of_one_wait(broker: Broker, database: Database) -> None:
    wakeups = Wakeups(broker, database, Role.ANALYSIS)
    for _ in range(300):
        wakeups.send()
    assert broker.waiting(ANALYSIS_QUEUE) == OF_ONE


def test_where_the_database_is_away_what_was_known_is_counted_on(broker: Broker, database: Database) -> None:
    wakeups = Wakeups(broker, Database("postgresql://nobody@127.0.0.1:1/none"), Role.ANALYSIS)
    for _ in range(20):
        wakeups.send()
    assert broker.waiting(ANALYSIS_QUEUE) == OF_ONE


def test_sweeps_have_one_wake_up_wait_for_each_job_however_often_they_look(
    broker: Broker, redis_url: str, database: Database
) -> None:
    appear(database, Role.ANALYSIS, 3)
    sweeper = Sweeper(database, broker, max_attempts=3)
    for _ in range(3):
        sweeper.sweep_and_wake()
    assert broker.waiting(ANALYSIS_QUEUE) == 0
    queue_jobs(database, 2)
    for _ in range(3):
        sweeper.sweep_and_wake()
    assert broker.waiting(ANALYSIS_QUEUE) == 2
    queue_jobs(database, 9)
    for _ in range(3):
        sweeper.sweep_and_wake()
    assert broker.waiting(ANALYSIS_QUEUE) == 3
    fetch(redis_url, ANALYSIS_QUEUE)
    sweeper.sweep_and_wake()
    assert broker.waiting(ANALYSIS_QUEUE) == 3


def test_what_is_submitted_while_nobody_works_does_not_pile_up(
    broker: Broker, redis_url: str, api_with: Callable[..., ApiWorld], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str | None] = []
    send = Wakeups.send

    def send_and_note(self: Wakeups, reference: str | None = None) -> None:
        send(self, reference)
        sent.append(reference)

    monkeypatch.setattr(Wakeups, "send", send_and_note)
    world = api_with(redis_url=SecretStr(redis_url))
    for _ in range(OF_ONE + 8):
        world.one.submit()
    until(lambda: len(sent) == OF_ONE + 8)
    assert broker.waiting(ANALYSIS_QUEUE) == OF_ONE


def test_beat_is_quiet_while_nobody_fetches_its_ticks(app: Celery, broker: Broker, redis_url: str) -> None:
    scheduler = QuietScheduler(app=app)
    tick = ScheduleEntry(SWEEP, SWEEP, schedule=schedule(2.0), options={"queue": SWEEP_QUEUE}, app=app)
    for _ in range(10):
        scheduler.apply_entry(tick)
    assert broker.waiting(SWEEP_QUEUE) == 2
    assert is_wake_up(fetch(redis_url, SWEEP_QUEUE))
    scheduler.apply_entry(tick)
    assert broker.waiting(SWEEP_QUEUE) == 2


def test_beat_skips_its_ticks_while_redis_is_away(services: ServiceUrls) -> None:
    app = make_celery(settings_for(services, redis_url="redis://127.0.0.1:1/0"))
    tick = ScheduleEntry(SWEEP, SWEEP, schedule=schedule(2.0), options={"queue": SWEEP_QUEUE}, app=app)
    assert QuietScheduler(app=app).apply_async(tick) is None  # raises where it tries to send


def test_the_beat_that_is_deployed_is_the_quiet_one(empty_database: str, redis_url: str) -> None:
    """`python -m worker beat`, as far as its schedule begins."""
    code = """
from celery.beat import Service
from worker.__main__ import main
Service.start = lambda self, **_: print(type(self.scheduler).__name__, flush=True)
main(["beat"])
"""
    environment = {
        "PATH": os.environ["PATH"],
        "DISTILDIRE_DATABASE_URL": empty_database,
        "DISTILDIRE_REDIS_URL": redis_url,
    }
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout.splitlines()[-1:] == ["QuietScheduler"], ended.stderr
