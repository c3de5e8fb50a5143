"""Workers know themselves and each other: who is there, who has died, and who only seems to work."""

from __future__ import annotations

import signal
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from shared.database.tables import WorkerRow
from shared.workers import registry
from tests.processes.conftest import OpenWorkplace
from tests.processes.worker_processes import WorkerProcess, Workplace, wait_until
from tests.support.bad_images import photograph, saved

pytestmark = pytest.mark.slow

PHOTOGRAPH = saved(photograph(), "JPEG")


def listed(place: Workplace) -> dict[int, WorkerRow]:
    """The workers on the list, by process id."""
    with place.database.begin() as session:
        return {worker.pid: worker for worker, _ in registry.list_workers(session)}


def test_every_process_is_on_the_list_until_it_ends(open_place: OpenWorkplace):
    place = open_place(precision="fp32")
    analysis = place.start_analysis()
    webhooks = place.start("worker", "-Q", "webhooks,sweep")
    beat = place.start("beat", "--schedule", str(place.folder / "schedule"))
    wait_until(lambda: [row.state for row in listed(place).values()] == ["ready"] * 3, 10, place.said)
    rows = listed(place)
    assert [rows[each.process.pid].role for each in (analysis, webhooks, beat)] == ["analysis", "webhooks", "beat"]
    row = rows[analysis.process.pid]
    assert (row.model, row.device, row.precision) == ("TEST-MODEL", "cpu", "fp32")
    assert (row.slots, row.busy) == (8, 0)
    for process in (analysis, webhooks, beat):
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.said()
    assert listed(place) == {}


def test_jobs_of_a_killed_worker_run_elsewhere_long_before_their_lease_ends(open_place: OpenWorkplace, tmp_path: Path):
    place = open_place(lease_seconds=600)
    place.redis().flushall()
    place.start("worker", "-Q", "webhooks,sweep")
    killed = place.start_gated(tmp_path / "gate")
    job_id = place.submit(PHOTOGRAPH)
    place.wait_stage(job_id, "diffusing")
    assert place.job(job_id).worker == listed(place)[killed.process.pid].id
    killed.kill()
    wait_until(lambda: place.job(job_id).state == "queued", 15, place.said)
    assert killed.process.pid not in listed(place)
    place.start_analysis()
    job = place.wait_ended(job_id, 60)
    assert (job.state, job.attempt) == ("succeeded", 2)


def test_a_frozen_worker_is_not_taken_for_dead(open_place: OpenWorkplace, tmp_path: Path):
    place = open_place(lease_seconds=120)
    place.redis().flushall()
    gate = tmp_path / "gate"
    frozen = place.start_gated(gate)
    job_id = place.submit(PHOTOGRAPH)
    place.wait_stage(job_id, "diffusing")
    frozen.signal(signal.SIGSTOP)
    judge = place.start("worker", "-Q", "webhooks,sweep")
    seen: set[datetime] = set()
    wait_until(lambda: len(seen | {note(seen, listed(place)[judge.process.pid])}) >= 4, 20, place.said)
    job = place.job(job_id)
    assert (job.state, job.attempt) == ("running", 1)
    assert frozen.process.pid in listed(place)
    frozen.signal(signal.SIGCONT)
    gate.unlink()
    assert place.wait_ended(job_id).attempt == 1


def note(seen: set[datetime], worker: WorkerRow) -> datetime:
    """Remember a worker's beat."""
    seen.add(worker.heartbeat_at)
    return worker.heartbeat_at


@pytest.fixture
def wedge(tmp_path: Path) -> Path:
    """While this file is there, workers look for work in vain."""
    file = tmp_path / "wedge"
    file.touch()
    return file


def start_wedged(place: Workplace, wedge: Path, queues: str) -> WorkerProcess:
    return place.start(
        "worker", "-Q", queues, app="tests.processes.wedged_worker", environment={"TEST_WEDGE": str(wedge)}
    )


def test_an_analysis_worker_that_takes_nothing_ends_itself(open_place: OpenWorkplace, wedge: Path):
    place = open_place(watchdog_seconds=3)
    place.redis().flushall()
    worker = start_wedged(place, wedge, "analysis")
    job_id = place.submit(PHOTOGRAPH)
    assert worker.wait(30) == 1, worker.said()
    assert '"worker_wedged"' in worker.said()
    assert "wedged_worker.py" in worker.said()  # the stacks say where
    assert place.job(job_id).attempt == 0
    place.start_analysis()
    assert place.wait_ended(job_id).state == "succeeded"


def test_a_webhook_worker_that_sends_nothing_ends_itself(open_place: OpenWorkplace, wedge: Path):
    place = open_place(watchdog_seconds=3)
    place.redis().flushall()
    url, headers = place.start_api(), {"Authorization": f"Bearer {place.new_key()}"}
    answer = httpx.post(
        f"{url}/v1/webhook-endpoints", json={"url": "https://receiver.example/"}, headers=headers, trust_env=False
    )
    answer.raise_for_status()
    worker = start_wedged(place, wedge, "webhooks,sweep")
    job_id = place.submit(PHOTOGRAPH, wake=False)
    httpx.post(f"{url}/v1/jobs/{job_id}/cancel", headers=headers, trust_env=False).raise_for_status()
    assert worker.wait(30) == 1, worker.said()
    assert '"worker_wedged"' in worker.said()
    with place.database.begin() as session:
        assert session.scalars(text("SELECT attempt FROM webhook_deliveries")).all() == [0]


def test_a_worker_with_nothing_to_do_is_no_wedged_one(open_place: OpenWorkplace):
    place = open_place(watchdog_seconds=1)
    place.redis().flushall()
    worker = place.start_analysis()
    first = listed(place)[worker.process.pid].heartbeat_at
    wait_until(lambda: (listed(place)[worker.process.pid].heartbeat_at - first).total_seconds() > 4, 20, place.said)
    assert place.wait_ended(place.submit(PHOTOGRAPH)).state == "succeeded"
    assert worker.process.poll() is None
