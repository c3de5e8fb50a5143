"""The stages of one job: fetch, decode, diffuse and classify, render, store, commit."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import TypeVar

import numpy as np
import structlog

from shared.broker.celery_app import Broker
from shared.broker.wakeups import Wakeups
from shared.database.engine import Database
from shared.domain import (
    AnalyzedImage,
    Artifact,
    ClaimedJob,
    FeatureMean,
    JobResult,
    ModelIdentity,
    Role,
    Stage,
)
from shared.errors import (
    DatabaseUnavailableError,
    ErrorCode,
    JobError,
    LeaseLostError,
    StoreUnavailableError,
)
from shared.images.visualizations import analyzed_region
from shared.jobs import lifecycle
from shared.storage.object_store import ObjectStore, artifact_key
from worker.imaging.decoding import ImageFacts
from worker.inference.batcher import Batcher, PassResult
from worker.jobs.attempt import RunningAttempt
from worker.jobs.caveats import caveats_of
from worker.jobs.outcome import OUTAGES, Abandoned, JobFailed, Outcome, Refused, Released, Succeeded, outcome_of
from worker.model.verdicts.assessment import Assessment, assess
from worker.model.verdicts.policy import Policy
from worker.process.resources import usable_cores
from worker.sandbox.sandbox import OpenedImage, Sandbox

#: Seconds for which a job waits for the object store before it goes back into the queue.
STORE_WAIT_SECONDS = 10.0
_RETRY_SECONDS = 0.5

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class ServedModel:
    """What a job must know of the model that the device runs."""

    identity: ModelIdentity
    image_size: int
    threshold: float
    policies: Mapping[str, Policy] = field(default_factory=dict)

    def policy(self, name: str | None) -> Policy | None:
        """Return the policy of that name; None where no name is given.

        Raises:
            JobError: model_unavailable; there is none.

        """
        if name is None:
            return None
        if name not in self.policies:
            raise JobError(
                ErrorCode.MODEL_UNAVAILABLE,
                f"The worker has no policy {name!r} for {self.identity.name}. Ask the operator, or name another.",
            )
        return self.policies[name]


class _DamagedError(StoreUnavailableError):
    """The store answered with other bytes than were uploaded. They may have been damaged on their way: try again."""


class _Written(Enum):
    """Whether the transaction that ends a job was committed."""

    YES = auto()
    REFUSED = auto()
    UNKNOWN = auto()


class Analyzer:
    """Runs jobs, each on the thread that calls `run`; they share the device through the batcher."""

    def __init__(
        self,
        *,
        database: Database,
        store: ObjectStore,
        sandbox: Sandbox,
        batcher: Batcher,
        broker: Broker,
        served: ServedModel,
        store_wait_seconds: float = STORE_WAIT_SECONDS,
    ) -> None:
        self._database = database
        self._store = store
        self._sandbox = sandbox
        self._batcher = batcher
        self._webhook_wakeups = Wakeups(broker, database, Role.WEBHOOKS)
        self._served = served
        self._store_wait_seconds = store_wait_seconds
        # Decoding and rendering have time limits. With more of them at once than cores, their waiting would count.
        self._cores = threading.BoundedSemaphore(usable_cores())

    def run(self, attempt: RunningAttempt) -> None:
        """Bring a claimed job to its outcome.

        Raises:
            StoreUnavailableError, DatabaseUnavailableError: the job was released. Others would meet the same outage.

        """
        outcome = self._outcome(attempt)
        try:
            written = self._write(attempt, outcome)
        except Exception:  # noqa: BLE001  # an attempt without an outcome would count as a death of its worker
            #: PostgreSQL refused the outcome of an attempt, and the job fails as `internal`. Check that the schema is
            #: this release's (`distildire db upgrade`); otherwise report the traceback.
            _log.exception("outcome_not_written")
            outcome, written = self._fail_unwritten(attempt)
        #: An attempt at a job ended with `outcome`; `written` says whether PostgreSQL stored that.
        _log.info("attempt_ended", outcome=outcome.name, written=written.name.lower())
        referred_to = isinstance(outcome, Succeeded) and written is _Written.YES
        if attempt.stage is Stage.STORING and not referred_to and written is not _Written.UNKNOWN:
            self._remove_pictures(attempt.job)
        if isinstance(outcome, Released) and isinstance(outcome.cause, OUTAGES):
            raise outcome.cause

    def _outcome(self, attempt: RunningAttempt) -> Outcome:
        try:
            return Succeeded(self._analyze(attempt))
        except Exception as error:  # noqa: BLE001  # every error is an outcome of this job
            outcome = outcome_of(error)
            if isinstance(outcome, JobFailed) and outcome.error.code is ErrorCode.INTERNAL:
                #: A job met an error that the worker does not expect, and fails as `internal`. Report the traceback: it
                #: is a fault of the service.
                _log.exception("attempt_failed")
            return outcome

    def _analyze(self, attempt: RunningAttempt) -> JobResult:
        if attempt.job.suspect:
            lifecycle.begin_isolated(self._database, attempt.job.attempt_id)
        policy = self._served.policy(attempt.job.options.policy)
        with ExitStack() as opened:
            with self._batcher.approaching():
                source = self.fetch(attempt)
                image = opened.enter_context(self._open(source, attempt))
                attempt.enter(Stage.DIFFUSING)
                futures = self._batcher.submit_all(
                    [image.x, *image.perturbed],
                    attempt.job.attempt_id,
                    on_classifying=partial(attempt.note, Stage.CLASSIFYING),
                )
            result, *perturbed = attempt.results_of(futures)
            changed = [each.logit for each in perturbed]
            assessment = assess(result.logit, self._served.threshold, policy, changed, content=image.facts.content)
            pictures = self._render(image, result, assessment, attempt)
        artifacts = self._store_pictures(pictures, attempt)
        about_image = caveats_of(image.facts, self._served.image_size, policy, result.feature_mean)
        caveats = (*assessment.caveats, *about_image)
        seconds = sum(each.device_seconds for each in (result, *perturbed))
        return _result(image.facts, result, self._served, assessment, caveats, attempt, artifacts, seconds)

    def fetch(self, attempt: RunningAttempt) -> bytes:
        """Return the image of a job, exactly as it was uploaded.

        Raises:
            JobError: internal; the store holds other bytes.
            StoreUnavailableError: the store does not answer.
            LeaseLostError: the lease was lost meanwhile.

        """
        try:
            return self._retry_while_unavailable(attempt, partial(self._get_intact, attempt.job))
        except _DamagedError:
            raise JobError(ErrorCode.INTERNAL, "The stored image is not what was uploaded. Submit it again.") from None

    def _get_intact(self, job: ClaimedJob) -> bytes:
        source = self._store.get(job.source_key)
        if hashlib.sha256(source).hexdigest() != job.source_sha256:
            raise _DamagedError
        return source

    def _open(self, source: bytes, attempt: RunningAttempt) -> OpenedImage:
        attempt.enter(Stage.DECODING)
        with self._cores:
            attempt.note(Stage.DECODING)  # its time begins now: the wait for a turn does not count
            return self._sandbox.open(source, self._served.image_size, probe=attempt.job.options.stability)

    def _render(
        self, image: OpenedImage, result: PassResult, assessment: Assessment, attempt: RunningAttempt
    ) -> Mapping[str, bytes]:
        attempt.enter(Stage.RENDERING)
        options = attempt.job.options
        unflagged = options.flagged_only and assessment.verdict.prediction == "REAL"
        if unflagged or not options.pictures:
            return {}
        with self._cores:
            attempt.note(Stage.RENDERING)
            return image.render(result.eps, result.feature_mean, options.pictures)

    def _store_pictures(self, pictures: Mapping[str, bytes], attempt: RunningAttempt) -> dict[str, Artifact]:
        attempt.enter(Stage.STORING)
        job, artifacts = attempt.job, {}
        for name, picture in pictures.items():
            key = artifact_key(job.tenant_id, job.id, job.attempt, name)
            artifacts[name] = self._retry_while_unavailable(attempt, partial(self._store.put_artifact, key, picture))
        return artifacts

    def _retry_while_unavailable(self, attempt: RunningAttempt, call: Callable[[], _T]) -> _T:
        """Call the store until it answers, for some seconds: a restart of the store should fail no job."""
        ends_at = time.monotonic() + self._store_wait_seconds
        while True:
            try:
                return call()
            except StoreUnavailableError:
                if time.monotonic() > ends_at:
                    raise
            if attempt.wait_lost(_RETRY_SECONDS):
                raise LeaseLostError

    def _write(self, attempt: RunningAttempt, outcome: Outcome) -> _Written:
        """Write the outcome of the attempt; write nothing where the lease is not ours."""
        job = attempt.job
        match outcome:
            case Succeeded(result):
                return self._commit(attempt, partial(lifecycle.succeed, self._database, job.attempt_id, result))
            case JobFailed(error):
                return self._commit(attempt, partial(lifecycle.fail, self._database, job.attempt_id, error))
            case Refused(error):
                elsewhere = partial(
                    lifecycle.try_elsewhere, policy=job.options.policy, model=self._served.identity.name
                )
                return self._commit(attempt, partial(elsewhere, self._database, job.attempt_id, error))
            case Released():
                return self._commit(attempt, partial(lifecycle.release, self._database, [job.attempt_id]))
            case Abandoned():
                return _Written.REFUSED

    def _fail_unwritten(self, attempt: RunningAttempt) -> tuple[Outcome, _Written]:
        """Fail a job whose outcome could not be written because of an unexpected error.

        If that cannot be written either, release the job and raise the error, so that the executor pauses.
        """
        outcome = JobFailed(JobError(ErrorCode.INTERNAL))
        try:
            written = self._write(attempt, outcome)
        except Exception:
            lifecycle.release(self._database, [attempt.job.attempt_id])
            raise
        return outcome, _Written.UNKNOWN if written is _Written.REFUSED else written  # the first may have been written

    def _commit(self, attempt: RunningAttempt, write: Callable[[], bool | None]) -> _Written:
        """Write an outcome; repeat it while the database is down and the lease may still be ours."""
        refused = _Written.REFUSED
        while True:
            try:
                if write():
                    self._webhook_wakeups.send(str(attempt.job.id))
            except LeaseLostError:
                return refused
            except DatabaseUnavailableError:
                refused = _Written.UNKNOWN  # the connection may have broken after the commit
                if attempt.wait_lost(_RETRY_SECONDS):
                    return refused
            else:
                return _Written.YES

    def _remove_pictures(self, job: ClaimedJob) -> None:
        """Delete the pictures that this attempt stored: no row refers to them. Retention deletes what is left."""
        try:
            for name in job.options.pictures:
                self._store.delete(artifact_key(job.tenant_id, job.id, job.attempt, name))
        except StoreUnavailableError:
            #: The store did not delete the pictures of an attempt whose result was not kept. Housekeeping deletes them
            #: after a day.
            _log.warning("pictures_left_behind")


def _result(
    image: ImageFacts,
    result: PassResult,
    served: ServedModel,
    assessment: Assessment,
    caveats: tuple[str, ...],
    attempt: RunningAttempt,
    artifacts: dict[str, Artifact],
    device_seconds: float,
) -> JobResult:
    """Return the result of a job that succeeded."""
    verdict = assessment.verdict
    region = analyzed_region(image.width, image.height, served.image_size)
    mean = np.ascontiguousarray(result.feature_mean, dtype="<f4")
    return JobResult(
        prediction=verdict.prediction,
        confidence=verdict.confidence,
        probability_fake=verdict.probability_fake,
        raw_probability_fake=assessment.raw_probability_fake,
        threshold=assessment.threshold,
        policy=assessment.policy,
        stability=assessment.stability,
        processing_time=round(time.monotonic() - attempt.claimed_at, 3),
        device_seconds=round(device_seconds, 6),
        image=AnalyzedImage(image.width, image.height, region, image.media_type, image.file_format, image.jpeg_quality),
        model=served.identity,
        timings=attempt.timings(),
        caveats=caveats,
        feature_mean=FeatureMean(mean.tobytes(), *mean.shape),
        artifacts=artifacts,
    )
