"""The parts of an analysis worker: made and connected here, started and ended by `worker/jobs/service.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from shared.broker.celery_app import Broker
from shared.database.engine import Database
from shared.domain import AttemptId
from shared.settings import AnalysisSettings
from shared.storage.object_store import ObjectStore
from worker.inference.batcher import Batcher, GiveUp
from worker.inference.pass_watchdog import PassWatchdog, memory_limit, pass_limit
from worker.jobs.heartbeat import Heartbeat
from worker.jobs.pipeline import Analyzer, ServedModel
from worker.jobs.runner import Claims, JobRunner
from worker.maintenance.sweeper import Sweeper
from worker.model.verdicts.policy import Policy
from worker.process.periodic import Periodic
from worker.process.watchdog import Watchdog
from worker.sandbox.sandbox import Sandbox

if TYPE_CHECKING:  # torch is imported when the sandbox runs
    from worker.inference.device import BatchPlan
    from worker.model import Detector


@dataclass(frozen=True)
class LoadedModel:
    """A model that has warmed up."""

    detector: Detector
    plan: BatchPlan
    policies: Mapping[str, Policy]

    def served(self) -> ServedModel:
        """Return what a job must know of it."""
        card = self.detector.card
        return ServedModel(self.detector.identity, card.image_size, card.threshold, self.policies)


@dataclass(frozen=True)
class AnalysisParts:
    """What an analysis worker starts and ends."""

    served: ServedModel
    sandbox: Sandbox
    batcher: Batcher
    runner: JobRunner
    heartbeat: Periodic
    polling: Periodic
    watchdog: Periodic
    database: Database
    heartbeat_database: Database


def build(
    settings: AnalysisSettings, model: LoadedModel, sandbox: Sandbox, broker: Broker, *, worker: str
) -> AnalysisParts:
    """Make the parts and connect them; nothing runs yet. `worker` is what the rows of its jobs call this process.

    Raises:
        PassTooSlowError: the device is too slow for the limit of a pass.
    """
    # With more slots, jobs would wait here for a slow device that another worker could run now.
    slots = settings.slots or 2 * model.plan.batch
    # With the overflow, a connection for each slot. Where there are many slots, some wait for a connection: each needs
    # one for milliseconds only, and PostgreSQL has a hundred for all processes.
    database = _database(settings, connections=min(-(-slots // 2), 16))
    # Its own connection: leases must be extended even where many jobs wait for one of the others.
    heartbeat_database = _database(settings, connections=1)

    def end_process(in_pass: Sequence[AttemptId]) -> None:
        runner.end_process(in_pass)  # made below, since it runs jobs on this device

    passes = _pass_watchdog(settings, model.plan, end_process)
    batcher = _batcher(settings, model, passes, end_process)
    served = model.served()
    claims = Claims(
        worker=worker,
        model=served.identity.name,
        policies=sorted(served.policies),
        lease=timedelta(seconds=settings.lease_seconds),
        max_attempts=settings.max_attempts,
    )
    analyzer = Analyzer(
        database=database, store=ObjectStore(settings), sandbox=sandbox, batcher=batcher, broker=broker, served=served
    )
    runner = JobRunner(database, claims, analyzer, slots=slots, device_is_late=lambda: passes.late)
    return AnalysisParts(
        served,
        sandbox,
        batcher,
        runner,
        heartbeat=_heartbeat(heartbeat_database, runner, claims),
        polling=_polling(settings, database, runner, broker),
        watchdog=_watchdog(settings, heartbeat_database, runner, claims),
        database=database,
        heartbeat_database=heartbeat_database,
    )


def _database(settings: AnalysisSettings, *, connections: int) -> Database:
    return Database(settings.database_url.get_secret_value(), pool_size=connections)


def _pass_watchdog(settings: AnalysisSettings, plan: BatchPlan, end_process: GiveUp) -> PassWatchdog:
    return PassWatchdog(
        end_process,
        seconds=pass_limit(plan.pass_seconds, settings.pass_seconds),
        ceiling=settings.pass_seconds,
        memory_bytes=settings.memory_bytes or memory_limit(),
    )


def _batcher(settings: AnalysisSettings, model: LoadedModel, passes: PassWatchdog, end_process: GiveUp) -> Batcher:
    from worker.inference.device import Device

    return Batcher(
        Device(model.detector),
        max_batch=model.plan.batch,
        wait_seconds=settings.batch_wait_ms / 1000,
        watch=passes,
        give_up=end_process,
    )


def _heartbeat(database: Database, runner: JobRunner, claims: Claims) -> Periodic:
    heartbeat = Heartbeat(database, runner.attempts, lease=claims.lease)
    return Periodic([heartbeat.beat], seconds=heartbeat.seconds, name="heartbeat")


def _polling(settings: AnalysisSettings, database: Database, runner: JobRunner, broker: Broker) -> Periodic:
    # Leases and deadlines end even where Redis and beat are down. The look that follows a sweep takes what it released.
    sweeper = Sweeper(database, broker, max_attempts=settings.max_attempts)
    return Periodic([sweeper.sweep, runner.executor.look], seconds=settings.poll_seconds, name="polling")


def _watchdog(settings: AnalysisSettings, database: Database, runner: JobRunner, claims: Claims) -> Periodic:
    watchdog = Watchdog(
        idle=lambda: runner.idle,
        taken=lambda: runner.executor.taken,
        waiting=partial(claims.anything_waits, database),
        limit_seconds=settings.watchdog_limit_seconds,
    )
    return Periodic([watchdog.look], seconds=watchdog.seconds, name="watchdog")
