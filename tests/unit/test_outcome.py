"""What each error means for the job that met it."""

from __future__ import annotations

import pytest

from shared.errors import (
    DatabaseUnavailableError,
    ErrorCode,
    JobError,
    LeaseLostError,
    ObjectMissingError,
    StoreUnavailableError,
)
from worker.inference.batcher import PassFailedError
from worker.jobs.attempt import WorkerStopsError
from worker.jobs.outcome import Abandoned, JobFailed, Refused, Released, outcome_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobError(ErrorCode.CORRUPT_IMAGE), ErrorCode.CORRUPT_IMAGE),
        (ObjectMissingError(), ErrorCode.INTERNAL),
        (MemoryError(), ErrorCode.OUT_OF_MEMORY),
        (ZeroDivisionError(), ErrorCode.INTERNAL),
        (OSError("disk full"), ErrorCode.INTERNAL),
    ],
)
def test_faults_of_image_or_service_end_the_job(error: Exception, code: ErrorCode):
    outcome = outcome_of(error)
    assert isinstance(outcome, JobFailed)
    assert outcome.error.code == code


def test_what_one_device_cannot_judge_has_not_failed_yet():
    error = JobError(ErrorCode.OUT_OF_MEMORY)
    assert outcome_of(PassFailedError(error)) == Refused(error)


def test_what_is_said_of_an_unexpected_error_names_no_internals():
    outcome = outcome_of(RuntimeError("password=hunter2"))
    assert isinstance(outcome, JobFailed)
    assert "hunter2" not in outcome.error.message


@pytest.mark.parametrize("error", [StoreUnavailableError(), DatabaseUnavailableError()])
def test_outages_give_the_job_back(error: StoreUnavailableError | DatabaseUnavailableError):
    assert outcome_of(error) == Released(error)


def test_a_worker_that_stops_gives_the_job_back():
    assert isinstance(outcome_of(WorkerStopsError()), Released)


def test_lost_lease_writes_nothing():
    assert outcome_of(LeaseLostError()) == Abandoned()
