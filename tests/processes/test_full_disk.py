"""Full disks: processes whose own one is do their work all the same, and so they do beside a Redis that cannot save."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
from redis.exceptions import ResponseError

from tests.processes.worker_processes import Workplace, wait_until
from tests.support.bad_images import photograph, saved

pytestmark = pytest.mark.slow

PHOTOGRAPH = saved(photograph(), "JPEG")


@pytest.mark.parametrize("queues", ["analysis", pytest.param("webhooks,sweep", marks=pytest.mark.slow)])
def test_a_worker_that_can_write_no_file_works_and_ends_in_order(place: Workplace, queues: str):
    worker = place.start("worker", "-Q", queues, app="tests.processes.mute_worker")
    if queues == "analysis":
        jobs = [place.submit(PHOTOGRAPH) for _ in range(3)]
        assert [place.wait_ended(job_id).state for job_id in jobs] == ["succeeded"] * 3
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


@pytest.fixture
def refusing(place: Workplace) -> Iterator[Callable[[bool], None]]:
    """Have Redis refuse every write, as it does when it cannot save to its disk, or take them again."""

    def refuse(on: bool) -> None:
        place.redis().config_set("min-replicas-to-write", int(on))

    yield refuse
    refuse(False)


def test_workers_outlive_a_redis_that_refuses_to_write(place: Workplace, refusing: Callable[[bool], None]):
    processes = [
        place.start_analysis(),
        place.start("worker", "-Q", "webhooks,sweep"),
        place.start("beat", "--schedule", str(place.folder / "schedule")),
    ]
    refusing(True)
    with pytest.raises(ResponseError):
        place.redis().set("anything", 1)
    for process in processes[:2]:
        wait_until(lambda said=process.said: "Not enough good replicas" in said(), 30, place.said)  # type: ignore[misc]  # bound for this round
    assert place.wait_ended(place.submit(PHOTOGRAPH, wake=False)).state == "succeeded"
    assert [process.process.poll() for process in processes] == [None] * 3
    refusing(False)
    for process in processes:
        process.signal(signal.SIGTERM)
    assert [process.wait() for process in processes] == [0, 0, 0], place.said()
