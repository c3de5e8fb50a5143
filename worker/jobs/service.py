"""An analysis worker: how it loads its model, takes jobs, and ends."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import structlog

from shared.broker.celery_app import Broker
from shared.domain import WorkerState
from shared.images.header import ImageLimits
from shared.settings import AnalysisSettings
from shared.workers.registry import WorkerStatus
from worker.jobs.parts import AnalysisParts, LoadedModel, build
from worker.model.cards.registry import find_card
from worker.model.verdicts.policy_files import load_policies
from worker.sandbox.sandbox import Sandbox

if TYPE_CHECKING:  # torch is imported when the sandbox runs
    from worker.model import Detector

_log = structlog.get_logger(__name__)


class AnalysisRuntime:
    """Everything between a wake-up and a verdict. Made by `load`, once in a process."""

    def __init__(self, settings: AnalysisSettings, parts: AnalysisParts) -> None:
        self._ready_file = settings.ready_file
        self._parts = parts
        self._runner = parts.runner

    @classmethod
    def load(cls, settings: AnalysisSettings, broker: Broker, *, worker: str) -> AnalysisRuntime:
        """Load and warm up everything. `worker` is what the rows of its jobs call this process.

        Raises:
            ModelError: the model cannot be loaded.
            PassTooSlowError: the device is too slow for the limit of a pass.
            SandboxError: the process that decodes images cannot be started.

        """
        began = time.monotonic()
        sandbox = _start_sandbox(settings)
        sandbox_at = time.monotonic()
        from worker.inference.device import settle_batch  # imports torch

        detector = load_detector(settings)
        installed = find_card(settings.model, settings.models_dir)
        policies, left_out = load_policies(installed, detector.weights_sha256, detector.precision)
        for reason in left_out:
            #: The worker starts without a policy; `reason` says which, why, and what to do. It leaves the jobs that
            #: name it to other workers.
            _log.warning("policy_left_out", reason=reason)
        loaded_at = time.monotonic()
        plan = settle_batch(detector, settings.max_batch)
        warm_at = time.monotonic()
        parts = build(settings, LoadedModel(detector, plan, policies), sandbox, broker, worker=worker)
        #: The worker loaded its model. The fields say which, on what device, and how long each step took.
        _log.info(
            "model_loaded",
            model=detector.card.name,
            device=str(detector.device),
            precision=detector.precision,
            policies=sorted(policies),
            max_batch=plan.batch,
            slots=parts.runner.slots,
            sandbox_seconds=round(sandbox_at - began, 2),
            load_seconds=round(loaded_at - sandbox_at, 2),
            warm_up_seconds=round(warm_at - loaded_at, 2),
        )
        return cls(settings, parts)

    def begin(self) -> None:
        """Start to take jobs."""
        for part in (self._parts.heartbeat, self._parts.batcher, self._parts.polling, self._parts.watchdog):
            part.start()
        if self._ready_file:
            self._ready_file.touch()
        #: The worker takes jobs from now on.
        _log.info("worker_ready")

    def wake(self) -> None:
        """Run jobs until none is left, on the thread of the wake-up that calls this."""
        self._runner.executor.work()

    def status(self) -> WorkerStatus:
        """Return the state of this worker, for the list of workers."""
        served = self._parts.served
        return WorkerStatus(
            WorkerState.DRAINING if self._runner.executor.stopping else WorkerState.READY,
            self._runner.slots,
            len(self._runner.attempts.now()),
            served.identity.name,
            served.identity.device,
            served.identity.precision,
            sorted(served.policies),
        )

    def stop(self) -> None:
        """Take no more jobs; those that are still fetching go back into the queue."""
        self._runner.stop()
        if self._ready_file:
            self._ready_file.unlink(missing_ok=True)

    def release_jobs(self) -> bool:
        """Queue again what could not be finished in time; return False where it must wait for its leases to end."""
        return self._runner.release()

    def close(self) -> None:
        """Finish the jobs that run, then end every part."""
        parts = self._parts
        self._runner.executor.close()
        for part in (parts.watchdog, parts.polling, parts.heartbeat, parts.batcher, parts.sandbox):
            part.close()
        parts.database.close()
        parts.heartbeat_database.close()
        #: The worker finished its work and ended.
        _log.info("worker_stopped")


def _start_sandbox(settings: AnalysisSettings) -> Sandbox:
    sandbox = Sandbox(
        ImageLimits(max_bytes=settings.max_upload_bytes, max_pixels=settings.max_pixels),
        memory_bytes=settings.decode_memory_bytes,
        cpu_seconds=math.ceil(settings.decode_seconds),
    )
    sandbox.start()
    return sandbox


def load_detector(settings: AnalysisSettings) -> Detector:
    """Import torch and load the model as analysis workers do; raise `ModelError`."""
    from worker.model import load_model

    return load_model(settings.model, settings.device, settings.precision, settings.models_dir)
