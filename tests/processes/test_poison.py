"""An image that kills, fills or halts its worker ends with its own code; what was beside it gets its verdict."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from shared.database.tables import JobRow
from shared.domain import WorkerState
from shared.workers import registry
from tests.processes.conftest import OpenWorkplace
from tests.processes.worker_processes import WorkerProcess, Workplace, wait_until
from tests.support.bad_images import photograph, saved
from tests.support.poison import BY_NAME, POISONS, Poison

PHOTOGRAPH = saved(photograph(), "JPEG")
#: What ends one job where it is, and nothing else.
HARMLESS = [poison for poison in POISONS if poison.place == "decoder" or poison.code != "attempts_exhausted"]
FLAWED = "tests.processes.poisoned_worker"
_MEMORY = 1_500_000_000


def test_poison_that_leaves_its_worker_alive_fails_alone(open_place: OpenWorkplace):
    place = open_place(decode_seconds=3, decode_memory_bytes=200_000_000)
    place.redis().flushall()
    culprits = {poison: place.submit(poison.image(), wake=False) for poison in HARMLESS}
    neighbours = [place.submit(PHOTOGRAPH, wake=False) for _ in range(8)]
    worker = place.start_analysis(app=FLAWED)
    place.wait_all_ended(60)
    answers = {poison.name: place.job(job_id).error_code for poison, job_id in culprits.items()}
    assert answers == {poison.name: poison.code for poison in HARMLESS}
    assert_untouched(place, neighbours)
    assert worker.process.poll() is None


def test_every_slot_works_after_a_hundred_times_out_of_memory(place: Workplace, tmp_path: Path):
    kinds = [BY_NAME["decoder-memory-error"], BY_NAME["batch-memory-error"]]
    poisoned = [place.submit(kinds[number % 2].image(), pictures=(), wake=False) for number in range(100)]
    gate = tmp_path / "gate"
    worker = place.start_analysis(app=FLAWED, environment={"TEST_GATE": str(gate)})
    place.wait_all_ended(60)
    assert {(job.error_code, job.attempt) for job in place.jobs()} == {("out_of_memory", 1)}
    gate.touch()
    slots = place.settings.slot_count
    more = [place.submit(PHOTOGRAPH) for _ in range(slots + 2)]
    wait_until(lambda: [job.stage for job in place.jobs()].count("diffusing") == slots, 20, place.said)
    gate.unlink()
    place.wait_all_ended(30)
    assert len(poisoned) + len(more) == len(place.jobs())
    assert_untouched(place, more)
    assert worker.process.poll() is None


def test_job_that_kills_its_worker_is_found_out_and_its_neighbours_get_their_verdicts(open_place: OpenWorkplace):
    place = open_place(max_attempts=1)
    place.redis().flushall()
    culprit = place.submit(BY_NAME["batch-segfault"].image(), wake=False)
    neighbours = [place.submit(PHOTOGRAPH, wake=False) for _ in range(3)]
    started = [place.start_analysis(app=FLAWED, ready=False) for _ in range(3)]
    place.wait_all_ended(120)
    job = place.job(culprit)
    assert (job.error_code, job.deaths, job.attempt) == ("attempts_exhausted", 1, 2)
    for neighbour in neighbours:
        row = place.job(neighbour)
        assert (row.state, row.deaths, row.attempt <= 3) == ("succeeded", 0, True)
    # The first with what else it carried, the second with the culprit alone.
    assert [worker.process.poll() is not None for worker in started].count(True) == 2


@pytest.mark.parametrize("name", [pytest.param("batch-allocate", marks=pytest.mark.slow), "batch-device-lost"])
def test_pass_that_must_end_its_process_counts_for_its_own_image_and_frees_the_others_at_once(
    open_place: OpenWorkplace, name: str
):
    place = open_place(max_attempts=1, max_batch=1, slots=4, lease_seconds=30, memory_bytes=_MEMORY)
    place.redis().flushall()
    culprit, *others = submit_first(place, BY_NAME[name], 3)
    worker = place.start_analysis(app=FLAWED)
    assert worker.wait(30) == 1, worker.said()
    row = place.job(culprit)
    assert (row.state, row.error_code, row.deaths) == ("failed", "attempts_exhausted", 1)
    assert "jobs_surrendered" in worker.said()
    for job_id in others:
        row = place.job(job_id)
        assert (row.state in ("queued", "succeeded"), row.deaths, row.suspect) == (True, 0, False), row.state


def test_image_that_one_device_fails_is_judged_by_another(place: Workplace):
    flawed, sound = place.start_analysis(app=FLAWED), place.start_analysis()
    wait_until(lambda: ready_workers(place) == 2, 10, place.said)  # each knows of the other
    poisons = [BY_NAME[f"batch-{harm}"] for harm in ("error", "nan", "memory-error")]
    jobs = [place.submit(poison.image()) for poison in poisons for _ in range(4)]
    place.wait_all_ended(60)
    assert {(place.job(job_id).state, place.job(job_id).deaths) for job_id in jobs} == {("succeeded", 0)}
    assert flawed.process.poll() is sound.process.poll() is None
    assert '"outcome": "refused"' in flawed.said(), "the flawed one had none of them"


def test_broken_device_fails_no_job(place: Workplace, tmp_path: Path):
    broken = tmp_path / "broken"
    worker = place.start_analysis(app=FLAWED, environment={"TEST_BROKEN": str(broken)})
    broken.touch()
    jobs = [place.submit(PHOTOGRAPH) for _ in range(6)]
    assert worker.wait(30) == 1, worker.said()
    assert "device_broken" in worker.said()
    place.start_analysis()
    place.wait_all_ended(60)
    assert {(place.job(job_id).state, place.job(job_id).deaths) for job_id in jobs} == {("succeeded", 0)}


@pytest.mark.slow
@pytest.mark.parametrize("poison", [poison for poison in POISONS if poison not in HARMLESS], ids=lambda it: it.name)
def test_three_deaths_end_a_killer(open_place: OpenWorkplace, poison: Poison):
    place = open_place(lease_seconds=30, memory_bytes=_MEMORY)
    place.redis().flushall()
    neighbours = [place.submit(PHOTOGRAPH, wake=False) for _ in range(3)]
    culprit = place.submit(poison.image(), wake=False)
    started: list[WorkerProcess] = []

    def ended() -> bool:
        if not started or started[-1].process.poll() is not None:
            started.append(place.start_analysis(app=FLAWED, ready=False))
        return all(job.finished_at is not None for job in place.jobs())

    wait_until(ended, 120, place.said)
    row = place.job(culprit)
    assert (row.error_code, row.deaths) == (poison.code, 3)
    assert len(started) <= 5
    for job_id in neighbours:
        neighbour = place.job(job_id)
        assert (neighbour.state, neighbour.deaths) == ("succeeded", 0)


def ready_workers(place: Workplace) -> int:
    with place.database.begin() as session:
        return [worker.state for worker, _ in registry.list_workers(session)].count(WorkerState.READY)


def submit_first(place: Workplace, poison: Poison, others: int) -> list[UUID]:
    """Submit poison, then others: it is the oldest, so that its pass comes first."""
    return [place.submit(data, wake=False) for data in (poison.image(), *([PHOTOGRAPH] * others))]


def assert_untouched(place: Workplace, neighbours: list[UUID]) -> None:
    """Assert that each had its verdict at its first attempt."""

    def fate(job: JobRow) -> tuple[str, int, int, bool]:
        return job.state, job.attempt, job.deaths, job.suspect

    assert {fate(place.job(job_id)) for job_id in neighbours} == {("succeeded", 1, 0, False)}
