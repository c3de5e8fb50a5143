"""What a job's thread learns when the job is lost."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from shared.domain import ClaimedJob, JobOptions, Stage
from shared.errors import ErrorCode, JobError, LeaseLostError
from worker.jobs.attempt import RunningAttempt, RunningAttempts, WorkerStopsError

SOON = 5.0


@pytest.fixture
def job() -> ClaimedJob:
    return ClaimedJob(uuid4(), uuid4(), 1, False, "key", "00" * 32, datetime.now(UTC), JobOptions(pictures=()))


def test_lost_job_stops_at_its_next_stage(job: ClaimedJob):
    attempt = RunningAttempt(job)
    attempt.enter(Stage.DECODING)
    attempt.lose()
    with pytest.raises(LeaseLostError):
        attempt.enter(Stage.DIFFUSING)


def test_job_that_is_lost_while_it_waits_for_the_device_stops_at_once(job: ClaimedJob):
    attempt, future = RunningAttempt(job), Future[int]()
    losing = threading.Timer(0.02, attempt.lose)
    losing.start()
    with pytest.raises(LeaseLostError):
        attempt.results_of([future])
    assert future.cancelled()
    losing.join()


def test_job_that_was_lost_before_does_not_wait_for_the_device(job: ClaimedJob):
    attempt, future = RunningAttempt(job), Future[int]()
    attempt.lose()
    with pytest.raises(LeaseLostError):
        attempt.results_of([future])


def test_where_one_image_of_a_job_fails_the_others_are_not_run(job: ClaimedJob):
    done, failed, waiting = Future[int](), Future[int](), Future[int]()
    done.set_result(1)
    failed.set_exception(JobError(ErrorCode.OUT_OF_MEMORY))
    with pytest.raises(JobError):
        RunningAttempt(job).results_of([done, failed, waiting])
    assert waiting.cancelled()


def test_a_worker_that_stops_goes_on_with_what_it_has_begun_and_with_nothing_else(job: ClaimedJob):
    attempts = RunningAttempts()
    with attempts.running(job) as begun, attempts.running(replace(job, id=uuid4())) as fetching:
        begun.enter(Stage.DECODING)
        attempts.begin_no_more()
        begun.enter(Stage.DIFFUSING)
        with pytest.raises(WorkerStopsError):
            fetching.enter(Stage.DECODING)
    with attempts.running(job) as claimed_since, pytest.raises(WorkerStopsError):
        claimed_since.enter(Stage.DECODING)


def test_what_is_lost_no_longer_keeps_a_worker_busy_but_in_the_device(job: ClaimedJob):
    attempts = RunningAttempts()
    with attempts.running(job) as attempt:
        assert attempts.living() == [attempt]
        attempt.enter(Stage.DIFFUSING)
        attempt.lose()
        assert attempts.living() == [attempt]
        attempt.note(Stage.RENDERING)
        assert attempts.living() == []


def test_seconds_are_counted_by_stage(job: ClaimedJob):
    attempt = RunningAttempt(job)
    assert not attempt.wait_lost(0.02)
    attempt.enter(Stage.DECODING)
    timings = attempt.timings()
    assert 0.02 <= timings["fetching"] < SOON
    assert set(timings) == {"fetching", "decoding"}


def carry_and_lose(attempts: RunningAttempts, job: ClaimedJob) -> None:
    with attempts.running(job) as attempt:
        assert attempts.now() == [attempt]
        attempt.lose()
        attempt.enter(Stage.DECODING)


def test_job_is_carried_until_its_block_ends_however_that_is(job: ClaimedJob):
    attempts = RunningAttempts()
    with pytest.raises(LeaseLostError):
        carry_and_lose(attempts, job)
    assert attempts.now() == []
