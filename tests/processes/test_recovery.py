"""Nothing that was accepted is lost, and nothing ends twice: workers killed, queues flushed, servers away."""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, update

from deploy.local.services import LocalServices
from shared.broker.celery_app import ANALYSIS_QUEUE, Broker
from shared.database.tables import JobRow
from tests.processes.conftest import OpenWorkplace
from tests.processes.worker_processes import Workplace, open_workplace, wait_until
from tests.support.bad_images import photograph, saved
from tests.support.databases import migrate
from tests.support.ports import free_ports
from tests.support.service_settings import settings_for

pytestmark = pytest.mark.slow

PHOTOGRAPH = saved(photograph(), "JPEG")
JOBS = 40


def test_all_jobs_succeed_once_after_a_killed_worker_and_a_flushed_queue(place: Workplace, tmp_path: Path):
    gate = tmp_path / "gate"
    worker = place.start_gated(gate)
    gate.unlink()
    finished = [place.submit(PHOTOGRAPH) for _ in range(JOBS // 4)]
    before = {job.id: columns(job) for job in place.wait_all_ended(30)}
    gate.touch()
    for _ in range(JOBS - len(finished)):
        place.submit(PHOTOGRAPH)
    slots = place.settings.slot_count
    wait_until(lambda: [job.stage for job in place.jobs()].count("diffusing") == slots, 20, place.said)

    worker.signal(signal.SIGKILL)
    worker.wait()
    place.redis().flushall()
    place.start_analysis()
    jobs = place.wait_all_ended(place.settings.lease_seconds + 10)

    assert [job.state for job in jobs] == ["succeeded"] * JOBS
    assert {job.id: columns(job) for job in jobs if job.id in before} == before
    assert sorted(job.attempt for job in jobs) == [1] * (JOBS - slots) + [2] * slots
    for job in jobs:
        assert (job.suspect, job.deaths) == (job.attempt == 2, 0)
        assert_result_is_whole(place, job)


def test_jobs_finish_with_redis_away_from_the_start(open_place: OpenWorkplace):
    (closed_port,) = free_ports(1)
    place = open_place(redis_url=f"redis://127.0.0.1:{closed_port}/0")
    for _ in range(10):
        place.submit(PHOTOGRAPH, wake=False)
    worker = place.start_analysis()
    assert {job.state for job in place.wait_all_ended(20)} == {"succeeded"}
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0, worker.said()


def test_deadlines_fall_with_the_webhook_worker_alone(open_place: OpenWorkplace):
    """No beat, no analysis worker, no Redis."""
    (closed_port,) = free_ports(1)
    place = open_place(redis_url=f"redis://127.0.0.1:{closed_port}/0")
    job_id = place.submit(PHOTOGRAPH, wake=False)
    with place.database.begin() as session:
        session.execute(update(JobRow).values(deadline_at=func.now() - timedelta(seconds=1)))
    place.start("worker", "-Q", "webhooks,sweep")
    job = place.wait_ended(job_id)
    assert (job.state, job.error_code, job.attempt) == ("expired", "deadline_exceeded", 0)


@pytest.fixture
def own_place(own_servers: LocalServices, models_dir: Path, tmp_path: Path) -> Iterator[Workplace]:
    """A workplace on servers that the test may stop."""
    migrate(own_servers.urls.database_url)
    quick = {"lease_seconds": 3, "poll_seconds": 0.5, "max_batch": 4, "models_dir": models_dir, "device": "cpu"}
    place = open_workplace(settings_for(own_servers.urls, model="TEST-MODEL", **quick), tmp_path)
    yield place
    place.close()


@pytest.mark.parametrize("server", ["postgres", "valkey", "s3"])
def test_carried_jobs_succeed_although_a_server_is_away_for_longer_than_a_lease(
    own_servers: LocalServices, own_place: Workplace, tmp_path: Path, server: str
):
    gate = tmp_path / "gate"
    worker = own_place.start_gated(gate)
    carried = own_place.submit(PHOTOGRAPH)
    own_place.wait_stage(carried, "diffusing")
    waiting = own_place.submit(PHOTOGRAPH, wake=False)
    own_servers.children[server].stop()
    gate.unlink()
    time.sleep(own_place.settings.lease_seconds + 1)  # the outage itself: there is nothing to wait for
    own_servers.start()
    own_place.wait_all_ended(40)

    for job_id in (carried, waiting):
        job = own_place.job(job_id)
        assert job.state == "succeeded", worker.said()
        assert job.deaths == 0
        assert_result_is_whole(own_place, job)
    assert worker.process.poll() is None


def test_beat_and_webhook_worker_outlive_redis_and_ring_again(own_servers: LocalServices, own_place: Workplace):
    own_servers.children["valkey"].stop()
    place = own_place
    beat = place.start("beat", "--schedule", str(place.folder / "schedule"), ready=False)
    sweeper = place.start("worker", "-Q", "webhooks,sweep", environment={"DISTILDIRE_POLL_SECONDS": "600"})
    assert "libtorch" not in Path(f"/proc/{sweeper.process.pid}/maps").read_text()
    for _ in range(3):
        place.submit(PHOTOGRAPH, wake=False)
    for _ in range(2):  # away at the start, and later
        own_servers.start()
        wait_until(lambda: Broker(place.app).waiting(ANALYSIS_QUEUE) == 3, 60, place.said)
        place.redis().flushall()
        wait_until(lambda: Broker(place.app).waiting(ANALYSIS_QUEUE) == 3, 30, place.said)
        place.redis().flushall()
        own_servers.children["valkey"].stop()
    for process in (beat, sweeper):
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.said()


def test_beat_and_worker_outlive_a_redis_that_refuses_to_write(own_servers: LocalServices, own_place: Workplace):
    """As one does whose disk is full."""
    own_servers.start()
    place = own_place
    beat = place.start("beat", "--schedule", str(place.folder / "schedule"), ready=False)
    sweeper = place.start("worker", "-Q", "webhooks,sweep", environment={"DISTILDIRE_POLL_SECONDS": "600"})
    place.submit(PHOTOGRAPH, wake=False)
    wait_until(lambda: Broker(place.app).waiting(ANALYSIS_QUEUE) == 1, 60, place.said)
    place.redis().config_set("min-replicas-to-write", 1)
    wait_until(lambda: "NOREPLICAS" in sweeper.said() and "NOREPLICAS" in beat.said(), 60, place.said)
    place.redis().config_set("min-replicas-to-write", 0)
    place.redis().flushall()
    wait_until(lambda: Broker(place.app).waiting(ANALYSIS_QUEUE) == 1, 30, place.said)
    for process in (beat, sweeper):
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.said()


def columns(job: JobRow) -> dict[str, object]:
    """A job's row and its result's."""
    assert job.result is not None
    rows = {
        table: {column.key: getattr(row, column.key) for column in row.__mapper__.column_attrs}
        for table, row in (("job", job), ("result", job.result))
    }
    return dict(rows)


def assert_result_is_whole(place: Workplace, job: JobRow) -> None:
    """One result, of the attempt that ended the job, and every picture that it names, as it was stored."""
    assert job.result is not None
    assert job.result.attempt == job.attempt
    assert set(job.result.artifacts) == set(job.pictures)
    for artifact in job.result.artifacts.values():
        assert f"/{job.attempt}/" in artifact["key"]
        assert hashlib.sha256(place.store.get(artifact["key"])).hexdigest() == artifact["sha256"]
