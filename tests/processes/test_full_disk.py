"""Processes whose own disk is full do their work all the same: nothing of it needs a file."""

from __future__ import annotations

import signal

import pytest

from tests.bad_images import photograph, saved
from tests.processes.worker_processes import Workplace

PHOTOGRAPH = saved(photograph(), "JPEG")


@pytest.mark.parametrize("queues", ["analysis", "webhooks,sweep"])
def test_a_worker_that_can_write_no_file_works_and_ends_in_order(place: Workplace, queues: str):
    worker = place.start("worker", "-Q", queues, app="tests.processes.mute_worker")
    if queues == "analysis":
        jobs = [place.submit(PHOTOGRAPH) for _ in range(3)]
        assert [place.wait_ended(job_id).state for job_id in jobs] == ["succeeded"] * 3
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
