"""The outcome of an attempt at a job, decided in one pure function; `worker/jobs/pipeline.py` acts on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from shared.domain import JobResult
from shared.errors import (
    DatabaseUnavailableError,
    DistildireError,
    ErrorCode,
    JobError,
    LeaseLostError,
    ObjectMissingError,
    StoreUnavailableError,
)
from worker.inference.batcher import PassFailedError
from worker.jobs.attempt import WorkerStopsError

#: Errors that are not the job's fault and end by themselves.
OUTAGES = (StoreUnavailableError, DatabaseUnavailableError)


@dataclass(frozen=True)
class Succeeded:
    """There is a verdict."""

    name: ClassVar = "succeeded"
    result: JobResult


@dataclass(frozen=True)
class JobFailed:
    """The job ends, with the reason that its owner is told."""

    name: ClassVar = "failed"
    error: JobError


@dataclass(frozen=True)
class Refused:
    """The device of this worker cannot classify the image: the job fails with `error` unless another device may try."""

    name: ClassVar = "refused"
    error: JobError


@dataclass(frozen=True)
class Abandoned:
    """The lease is not ours any more: the job was canceled, expired, was released, or is another worker's."""

    name: ClassVar = "abandoned"


@dataclass(frozen=True)
class Released:
    """The job goes back into the queue and nothing counts against it: a server is down, or this worker stops."""

    name: ClassVar = "released"
    cause: DistildireError


Outcome = Succeeded | JobFailed | Refused | Abandoned | Released


def outcome_of(error: Exception) -> Outcome:
    """Decide what an exception means for the job that met it."""
    match error:
        case JobError():
            return JobFailed(error)
        case PassFailedError():
            return Refused(error.error)
        case LeaseLostError():
            return Abandoned()
        case StoreUnavailableError() | DatabaseUnavailableError() | WorkerStopsError():
            return Released(error)
        case ObjectMissingError():
            return JobFailed(JobError(ErrorCode.INTERNAL, "The uploaded image is not in the store. Submit it again."))
        case MemoryError():
            return JobFailed(JobError(ErrorCode.OUT_OF_MEMORY))
        case _:
            return JobFailed(JobError(ErrorCode.INTERNAL))
