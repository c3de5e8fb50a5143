"""SIGTERM ends a process with 0, in time and with nothing lost: at any moment, and whatever server is frozen."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from deploy.bench.processes import tree
from deploy.local.services import LocalServices
from shared.workers import registry
from tests.processes.conftest import OpenWorkplace
from tests.processes.worker_processes import WorkerProcess, Workplace, open_workplace, wait_until
from tests.support.bad_images import photograph, saved
from tests.support.databases import migrate
from tests.support.service_settings import settings_for

pytestmark = pytest.mark.slow

PHOTOGRAPH = saved(photograph(), "JPEG")
DRAIN_SECONDS = 4
#: As deployed: a scheduler that keeps no file. The other kind deletes the one that it is given when it cannot read it.
BEAT = ("beat", "--scheduler", "celery.beat:Scheduler")
#: What may come on top where a server does not answer, and of a busy machine.
GRACE_SECONDS = 10


def listed(place: Workplace) -> list[str]:
    """The states of the workers on the list."""
    with place.database.begin() as session:
        return [worker.state for worker, _ in registry.list_workers(session)]


def catches_sigterm(process: WorkerProcess) -> bool:
    """Whether it has a handler by now, as the kernel sees it."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("arguments", [("worker", "-Q", "analysis"), BEAT])
def test_a_process_that_imports_ends_at_once(open_place: OpenWorkplace, arguments: tuple[str, ...]):
    process = open_place().start(*arguments, ready=False)
    wait_until(lambda: catches_sigterm(process), 60, process.said)
    process.signal(signal.SIGTERM)
    assert process.wait(15) == 0, process.said()
    assert '"worker_ready"' not in process.said()


def test_a_worker_that_loads_its_model_ends_at_once_and_leaves_the_list(open_place: OpenWorkplace):
    place = open_place()
    worker = place.start_analysis(ready=False)
    wait_until(lambda: listed(place) == ["starting"], 60, place.said)
    worker.signal(signal.SIGTERM)
    assert worker.wait(15) == 0, worker.said()
    assert '"worker_ready"' not in worker.said()
    assert listed(place) == []


def test_a_beat_that_swallows_exceptions_ends_all_the_same_and_leaves_the_list(open_place: OpenWorkplace):
    place = open_place()
    beat = place.start(*BEAT, app="tests.processes.deaf_beat")
    wait_until(lambda: listed(place) == ["ready"], 10, place.said)
    beat.signal(signal.SIGTERM)
    assert beat.wait(15) == 0, beat.said()
    assert listed(place) == []


def test_a_second_signal_changes_nothing(place: Workplace, tmp_path: Path):
    gate = tmp_path / "gate"
    worker = place.start_gated(gate)
    job_id = place.submit(PHOTOGRAPH)
    place.wait_stage(job_id, "diffusing")
    for _ in range(3):
        worker.signal(signal.SIGTERM)
    wait_until(lambda: listed(place) == ["draining"], 10, place.said)
    worker.signal(signal.SIGTERM)
    gate.unlink()
    assert worker.wait() == 0, worker.said()
    job = place.job(job_id)
    assert (job.state, job.attempt, job.deaths) == ("succeeded", 1, 0)


@pytest.fixture
def own_place(own_servers: LocalServices, models_dir: Path, tmp_path: Path) -> Iterator[Workplace]:
    """A workplace on servers that the test may freeze."""
    migrate(own_servers.urls.database_url)
    quick = {"poll_seconds": 0.5, "max_batch": 4, "models_dir": models_dir, "device": "cpu", "precision": "fp32"}
    changes = quick | {"model": "TEST-MODEL", "drain_seconds": DRAIN_SECONDS}
    place = open_workplace(settings_for(own_servers.urls, **changes), tmp_path)
    yield place
    place.close()


@pytest.fixture
def frozen(own_servers: LocalServices) -> Iterator[list[str]]:
    """The servers named in this list are thawed at the end."""
    names: list[str] = []
    yield names
    for name in names:
        thaw(own_servers, name)


@pytest.mark.parametrize("server", ["postgres", "valkey", "s3"])
def test_idle_processes_end_with_0_although_a_server_is_frozen(
    own_servers: LocalServices, own_place: Workplace, frozen: list[str], server: str
):
    processes = [
        own_place.start_analysis(),
        own_place.start("worker", "-Q", "webhooks,sweep"),
        own_place.start("beat", "--schedule", str(own_place.folder / "schedule")),
    ]
    freeze(own_servers, server, frozen)
    time.sleep(1)  # each has met it by now: they look all the time
    began = time.monotonic()
    for process in processes:
        process.signal(signal.SIGTERM)
    assert [process.wait(60) for process in processes] == [0, 0, 0], own_place.said()
    assert time.monotonic() - began < DRAIN_SECONDS + GRACE_SECONDS


def test_a_worker_that_cannot_tell_the_database_of_its_jobs_ends_in_time_with_1(
    own_servers: LocalServices, own_place: Workplace, frozen: list[str], tmp_path: Path
):
    worker = own_place.start_gated(tmp_path / "gate")
    job_id = own_place.submit(PHOTOGRAPH)
    own_place.wait_stage(job_id, "diffusing")
    freeze(own_servers, "postgres", frozen)
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait(60) == 1, worker.said()
    assert time.monotonic() - began < DRAIN_SECONDS + GRACE_SECONDS


def test_jobs_that_were_claimed_and_not_begun_go_back_at_once(
    own_servers: LocalServices, own_place: Workplace, frozen: list[str]
):
    job_id = own_place.submit(PHOTOGRAPH)
    freeze(own_servers, "s3", frozen)
    worker = own_place.start_analysis()
    own_place.wait_stage(job_id, "fetching")
    worker.signal(signal.SIGTERM)
    wait_until(lambda: listed(own_place) == ["draining"], 10, own_place.said)
    thaw(own_servers, "s3")
    assert worker.wait(30) == 0, worker.said()
    job = own_place.job(job_id)
    assert (job.state, job.attempt, job.deaths, job.suspect) == ("queued", 1, 0, False)
    assert '"outcome": "released"' in worker.said()
    assert "crew_pauses" not in worker.said()


def freeze(servers: LocalServices, name: str, frozen: list[str]) -> None:
    """Stop a server and its children where they stand."""
    for pid in tree(servers.children[name].pid):
        os.kill(pid, signal.SIGSTOP)
    frozen.append(name)


def thaw(servers: LocalServices, name: str) -> None:
    """Let them go on."""
    for pid in tree(servers.children[name].pid):
        with suppress(ProcessLookupError):  # a server's child may have ended since it was listed
            os.kill(pid, signal.SIGCONT)
