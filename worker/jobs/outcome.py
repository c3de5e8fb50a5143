"""What came of an attempt at a job, decided in one pure function; `worker/jobs/pipeline.py` acts on it."""

from __future__ import annotations

from dataclasses import dataclass

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

#: What is nobody's fault and passes by itself.
OUTAGES = (StoreUnavailableError, DatabaseUnavailableError)


@dataclass(frozen=True)
class Succeeded:
    """There is a verdict."""

    result: JobResult


@dataclass(frozen=True)
class Failed:
    """The job ends, with the reason that its owner is told."""

    error: JobError


@dataclass(frozen=True)
class Refused:
    """The device of this worker cannot judge the image: the job fails with `error`, unless another device may try."""

    error: JobError


@dataclass(frozen=True)
class Abandoned:
    """The job is not ours any more: canceled, expired, given back, or given to another worker."""


@dataclass(frozen=True)
class Released:
    """The job goes back into the queue, nothing counted: a server that it needs is away, or this worker stops."""

    cause: DistildireError


Outcome = Succeeded | Failed | Refused | Abandoned | Released


def outcome_of(error: Exception) -> Outcome:
    """Decide what an exception means for the job that met it."""
    match error:
        case JobError():
            return Failed(error)
        case PassFailedError():
            return Refused(error.error)
        case LeaseLostError():
            return Abandoned()
        case StoreUnavailableError() | DatabaseUnavailableError() | WorkerStopsError():
            return Released(error)
        case ObjectMissingError():
            return Failed(JobError(ErrorCode.INTERNAL, "The uploaded image is not in the store. Submit it again."))
        case MemoryError():
            return Failed(JobError(ErrorCode.OUT_OF_MEMORY))
        case _:
            return Failed(JobError(ErrorCode.INTERNAL))
