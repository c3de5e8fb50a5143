"""What an analysis worker is made of, and the order in which its parts start and end."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import structlog

from shared.broker.celery_app import Broker
from shared.database.engine import Database
from shared.domain import (
    AttemptId,
    ClaimedJob,
    ModelIdentity,
    WorkerState,
)
from shared.images.header import ImageLimits
from shared.jobs import claiming, lifecycle
from shared.settings import AnalysisSettings
from shared.storage.object_store import ObjectStore
from shared.workers.registry import WorkerStatus
from worker.inference.batcher import Batcher
from worker.inference.pass_watchdog import PassWatchdog, memory_limit, pass_limit
from worker.jobs.attempt import Attempts
from worker.jobs.executor import ClaimedWork, Executor
from worker.jobs.heartbeat import Heartbeat
from worker.jobs.pipeline import Analyzer, ServedModel
from worker.maintenance.sweeper import Sweeper
from worker.model.cards.registry import find_card
from worker.model.verdicts.policy import Policy
from worker.model.verdicts.policy_files import load_policies
from worker.process.periodic import Periodic
from worker.process.watchdog import Watchdog
from worker.sandbox.sandbox import Sandbox

if TYPE_CHECKING:  # torch is imported when the sandbox runs
    from worker.inference.device import BatchPlan
    from worker.model import Detector

#: How long a process that must end waits for a claim that is under way: a pass may be filling the memory meanwhile.
_TAKING_SECONDS = 0.2

_log = structlog.get_logger(__name__)


class AnalysisRuntime:
    """Everything between a wake-up and a verdict. Made by `load`, once a process."""

    def __init__(
        self,
        settings: AnalysisSettings,
        sandbox: Sandbox,
        detector: Detector,
        broker: Broker,
        *,
        worker: str,
        pace: BatchPlan,
        policies: Mapping[str, Policy],
    ) -> None:
        from worker.inference.device import Device

        self._settings = settings
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._worker = worker
        self._model = detector.card.name
        self._policies = sorted(policies)
        self._sandbox = sandbox
        # A job that waits here for a slow device could be with another worker.
        self._slots = settings.slots or 2 * pace.batch
        # With the overflow, a connection for each slot. Of many slots some wait a moment: each needs one for
        # milliseconds, and PostgreSQL has a hundred for all.
        self._database = Database(settings.database_url.get_secret_value(), pool_size=min(-(-self._slots // 2), 16))
        # Of its own: a crowd of jobs that wait for a connection must not keep leases from being extended.
        self._heart_database = Database(settings.database_url.get_secret_value(), pool_size=1)
        self._attempts = Attempts()
        heartbeat = Heartbeat(self._heart_database, self._attempts, lease=self._lease)
        self._heart = Periodic([heartbeat.beat], seconds=heartbeat.seconds, name="heartbeat")
        self._passes = PassWatchdog(
            self._give_up,
            seconds=pass_limit(pace.pass_seconds, settings.pass_seconds),
            ceiling=settings.pass_seconds,
            memory_bytes=settings.memory_bytes or memory_limit(),
        )
        self._batcher = Batcher(
            Device(detector),
            max_batch=pace.batch,
            wait_seconds=settings.batch_wait_ms / 1000,
            watch=self._passes,
            give_up=self._give_up,
        )
        self._identity = ModelIdentity(
            self._model,
            detector.weights_sha256,
            detector.card.demonstration,
            str(detector.device),
            detector.precision,
        )
        self._analyzer = Analyzer(
            database=self._database,
            store=ObjectStore(settings),
            sandbox=sandbox,
            batcher=self._batcher,
            broker=broker,
            served=ServedModel(self._identity, detector.card.image_size, detector.card.threshold, policies),
        )
        self._executor = Executor(self._take, slots=self._slots)
        sweeper = Sweeper(self._database, broker, max_attempts=settings.max_attempts)
        # Leases end and deadlines fall even where Redis and beat are dead; what that sets free is looked for at once.
        self._periodic = Periodic([sweeper.sweep, self._executor.look], seconds=settings.poll_seconds)
        watchdog = Watchdog(
            idle=lambda: self._executor.willing and not self._attempts.living(),
            taken=lambda: self._executor.taken,
            waiting=self._anything_waits,
            patience_seconds=settings.watchdog_patience,
        )
        self._watch = Periodic([watchdog.look], seconds=watchdog.seconds, name="watchdog")

    @classmethod
    def load(cls, settings: AnalysisSettings, broker: Broker, *, worker: str) -> AnalysisRuntime:
        """Load and warm up everything. `worker` is what the rows of its jobs call this process.

        Raises:
            ModelError: the model cannot be loaded.
            SandboxError: images could not be decoded.

        """
        began = time.monotonic()
        sandbox = Sandbox(
            ImageLimits(max_bytes=settings.max_upload_bytes, max_pixels=settings.max_pixels),
            memory_bytes=settings.decode_memory_bytes,
            cpu_seconds=math.ceil(settings.decode_seconds),
        )
        sandbox.start()
        sandbox_at = time.monotonic()
        from worker.inference.device import settle_batch  # imports torch

        detector = load_detector(settings)
        installed = find_card(settings.model, settings.models_dir)
        policies, left_out = load_policies(installed, detector.weights_sha256, detector.precision)
        for reason in left_out:
            #: The worker does without a policy; `reason` says which, why, and what to do. Jobs that name it are left to
            #: other workers.
            _log.warning("policy_left_out", reason=reason)
        loaded_at = time.monotonic()
        pace = settle_batch(detector, settings.max_batch)
        warm_at = time.monotonic()
        runtime = cls(settings, sandbox, detector, broker, worker=worker, pace=pace, policies=policies)
        #: The worker loaded its model. `model`, `device`, `precision` and the times say what and how fast.
        _log.info(
            "model_loaded",
            model=detector.card.name,
            device=str(detector.device),
            precision=detector.precision,
            policies=sorted(policies),
            max_batch=pace.batch,
            slots=runtime._slots,
            sandbox_seconds=round(sandbox_at - began, 2),
            load_seconds=round(loaded_at - sandbox_at, 2),
            warm_up_seconds=round(warm_at - loaded_at, 2),
        )
        return runtime

    def begin(self) -> None:
        """Begin to take jobs."""
        for part in (self._heart, self._batcher, self._periodic, self._watch):
            part.start()
        if self._settings.ready_file:
            self._settings.ready_file.touch()
        #: The worker takes jobs from now on.
        _log.info("worker_ready")

    def wake(self) -> None:
        """Work until no job is left; by the thread of a wake-up."""
        self._executor.work()

    def status(self) -> WorkerStatus:
        """Return how this worker fares."""
        return WorkerStatus(
            WorkerState.DRAINING if self._executor.stopping else WorkerState.READY,
            self._slots,
            len(self._attempts.now()),
            self._model,
            self._identity.device,
            self._identity.precision,
            self._policies,
        )

    def stop(self) -> None:
        """Take no more jobs; those that have not been begun are given back, each by the thread that carries it."""
        self._executor.stop()
        self._attempts.begin_no_more()
        if self._settings.ready_file:
            self._settings.ready_file.unlink(missing_ok=True)

    def release_jobs(self) -> bool:
        """Give back what could not be finished in time; return whether its leases need not be waited for."""
        carried = self._attempts.now()
        for attempt in carried:
            attempt.lose()
        if not carried:
            return True
        try:
            lifecycle.release(self._database, [attempt.job.attempt_id for attempt in carried])
        except Exception:  # noqa: BLE001  # whatever it was, this process must end; the leases then do
            #: A worker that stops could not queue its jobs again. They run again when their leases end.
            _log.exception("jobs_not_given_back", jobs=len(carried))
            return False
        #: A worker that stops queued so many `jobs` again, and nothing is counted against them.
        _log.warning("jobs_given_back", jobs=len(carried))
        return True

    def close(self) -> None:
        """Wait for what is carried, then end every part."""
        self._executor.close()
        for part in (self._watch, self._periodic, self._heart, self._batcher, self._sandbox):
            part.close()
        self._database.close()
        self._heart_database.close()
        #: The worker ended what it carried and every part of itself.
        _log.info("worker_stopped")

    def _take(self, most: int) -> Sequence[ClaimedWork]:
        if self._passes.late:
            return ()  # it may hang: whoever waits is better off elsewhere
        jobs = claiming.claim_several(
            self._database,
            worker=self._worker,
            model=self._model,
            lease=self._lease,
            policies=self._policies,
            most=most,
        )
        return [ClaimedWork(partial(self._carry, job), isolated=job.suspect) for job in jobs]

    def _carry(self, job: ClaimedJob) -> None:
        names = structlog.contextvars.bound_contextvars(job_id=str(job.id), attempt=job.attempt)
        with names, self._attempts.carrying(job) as attempt:
            if job.suspect:
                self._executor.wait_until_isolated()
            self._analyzer.carry(attempt)

    def _give_up(self, in_pass: Sequence[AttemptId]) -> None:
        """End this process because of a pass with these images in it, and say first which jobs had no part in it."""
        self._executor.freeze(_TAKING_SECONDS)
        try:
            jobs = lifecycle.release_after_device_failure(
                self._database, self._worker, in_pass, max_attempts=self._settings.max_attempts
            )
            #: A worker that ends because of a pass of its device queued its `jobs` again. Those of the pass (`in_pass`)
            #: run alone next.
            _log.warning("jobs_surrendered", jobs=jobs, in_pass=len(in_pass))
        except Exception:  # noqa: BLE001  # whatever it was, this process must end; the leases then do
            #: A worker that ends because of a pass of its device could not queue its jobs again. They run again when
            #: their leases end.
            _log.exception("jobs_not_surrendered")
        os._exit(1)

    def _anything_waits(self) -> bool:
        return claiming.anything_waits(
            self._heart_database, worker=self._worker, model=self._model, lease=self._lease, policies=self._policies
        )


def load_detector(settings: AnalysisSettings) -> Detector:
    """Import torch and load the model as analysis workers do; raise `ModelError`."""
    from worker.model import load_model

    return load_model(settings.model, settings.device, settings.precision, settings.models_dir)
