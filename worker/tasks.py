"""The Celery application of every worker and of beat: tasks that start work, and what begins and ends a worker.

A worker's queues are its role: one that consumes `analysis` runs the model, any other delivers webhooks and sweeps.
"""

from __future__ import annotations

from worker.process.shutdown import Service, shutdown  # first: from now on SIGTERM ends this process in order

# isort: split
import atexit
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import structlog
from celery import signals

from shared.broker.celery_app import (
    ANALYSIS_QUEUE,
    ANALYZE,
    DELIVER,
    SWEEP,
    SWEEP_QUEUE,
    WEBHOOK_QUEUE,
    Broker,
    make_celery,
)
from shared.domain import Role, WorkerState
from shared.errors import DatabaseUnavailableError, DistildireError
from shared.logs import configure_logging
from shared.settings import AnalysisSettings, CommonSettings, Settings, SettingsError
from shared.workers.registry import WorkerStatus
from worker.process.registration import Registration

SWEEP_SECONDS = 2.0
_QUIET_LOGGERS = ("celery.app.trace", "celery.worker.strategy", "celery.beat")  # a line or two for every wake-up

settings = CommonSettings.read()
shutdown.seconds = settings.drain_seconds
app = make_celery(settings)
app.conf.update(
    worker_pool="threads",  # the model is in one process, its jobs on threads
    worker_concurrency=settings.slot_count,  # one thread for each job that may be carried
    beat_schedule={
        SWEEP: {
            "task": SWEEP,
            "schedule": SWEEP_SECONDS,
            "options": {"queue": SWEEP_QUEUE, "expires": 2 * SWEEP_SECONDS},
        }
    },
    beat_scheduler="worker.process.beat:QuietScheduler",
)
_log = structlog.get_logger(__name__)


#: What each task of this process calls.
_callbacks: dict[str, Callable[[], object]] = {}


@app.task(name=ANALYZE)
def analyze(reference: str | None = None) -> None:
    """Work until no job is left. `reference`, the job that the wake-up was sent for, is for tracing alone."""
    _ring(ANALYZE, reference)


@app.task(name=DELIVER)
def deliver(reference: str | None = None) -> None:
    """Send the webhooks that are due."""
    _ring(DELIVER, reference)


@app.task(name=SWEEP)
def sweep() -> None:
    """End what is overdue, queue again what was dropped, wake workers for what waits."""
    _ring(SWEEP)


def _ring(task: str, reference: str | None = None) -> None:
    try:
        _callbacks[task]()
    except DatabaseUnavailableError:
        _log.warning("database_away", task=task)  # no news of the code: a line, not a traceback
    # The boundary of every task: a MemoryError that leaves a task's body wedges the worker for good (celery 10462).
    except Exception:  # noqa: BLE001
        #: A wake-up met an error that the worker does not expect. The worker goes on. Report the traceback.
        _log.exception("task_failed", task=task, reference=reference)


def _without_stack(record: logging.LogRecord) -> bool:
    """Keep the sentence of a tick that beat could not send, and drop the stacks that Celery adds to it."""
    if record.exc_info and isinstance(record.args, tuple):
        record.msg, record.args, record.exc_info = "%s", record.args[:1], None
    return True


@signals.setup_logging.connect
def _configure_logging(**_: object) -> None:
    configure_logging(settings.log_level)
    logging.getLogger("celery.beat").addFilter(_without_stack)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


@signals.celeryd_init.connect
def _be_quiet(instance: Any, **_: object) -> None:
    """Print no banner: where the disk that takes the output is full, it would end the worker."""
    instance.quiet = True


@signals.celeryd_after_setup.connect
def _start(**_: object) -> None:
    """Start what the queues of this worker need, before Celery looks for Redis."""
    try:
        if settings.ready_file:
            settings.ready_file.unlink(missing_ok=True)  # left by one that was killed
        _start_services(set(app.amqp.queues.consume_from))
    except Exception as error:  # noqa: BLE001  # Celery would log it and go on without the services
        if isinstance(error, DistildireError):
            #: The worker ends before it takes a job. `reason`, or the traceback, says why; the exit status says whether
            #: that may pass by itself.
            _log.critical("worker_cannot_start", reason=error.message)
        else:
            _log.critical("worker_cannot_start", exc_info=True)
        sys.exit(_exit_status(error))


def _exit_status(error: Exception) -> int:
    """Return 78 where no other try would fare better: a card is wrong, weights are altered or fail their self-test.

    2 where a setting is missing or wrong.

    What is not there may come: a device whose driver starts, weights on a disk that is not mounted yet.
    """
    from worker.model.cards.registry import CardError, ModelError

    if isinstance(error, SettingsError):
        return 2
    if not isinstance(error, ModelError):
        return 1
    from worker.model.self_test import SelfTestError
    from worker.model.weights.digests import AlteredError  # these import torch, which was there to raise a ModelError

    return os.EX_CONFIG if isinstance(error, AlteredError | CardError | SelfTestError) else 1


def _start_services(queues: set[str]) -> None:
    broker = Broker(app)
    registration = _appear(Role.ANALYSIS if ANALYSIS_QUEUE in queues else Role.WEBHOOKS)
    if ANALYSIS_QUEUE in queues:
        from worker.jobs.service import AnalysisRuntime  # imports numpy and Pillow, and torch when it loads

        analysis = AnalysisRuntime.load(AnalysisSettings.read(), broker, worker=registration.identity.id)
        _begin(analysis)
        _callbacks[ANALYZE] = analysis.wake
    if queues & {WEBHOOK_QUEUE, SWEEP_QUEUE}:
        from worker.webhooks.service import WebhookRuntime

        webhooks = WebhookRuntime(Settings.read(), broker)
        _begin(webhooks)
        _callbacks[DELIVER], _callbacks[SWEEP] = webhooks.deliver, webhooks.sweeper.sweep_and_wake
    if shutdown.services:
        registration.show(shutdown.services[0].status)


def _begin(service: Service) -> None:
    shutdown.services.append(service)  # before it carries anything: what is told to stop now must stop it too
    service.begin()


def _appear(role: Role) -> Registration:
    """Be on the list of workers from now on, whatever way this process ends in order."""
    registration = Registration(settings, role)
    registration.start()
    shutdown.on_close = registration.close
    atexit.register(registration.close)
    return registration


@atexit.register
def _drop_what_cannot_be_logged() -> None:
    """Python would try once more at the very end, and end with 120 where the log's disk is full."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@signals.worker_shutting_down.connect
def _stop(**_: object) -> None:
    """Called in the signal handler, before Celery waits for the threads of its tasks."""
    shutdown.tell()


@signals.worker_shutdown.connect
def _close(**_: object) -> None:
    for service in shutdown.services:
        service.close()


@signals.beat_init.connect
def _beat_is_ready(**_: object) -> None:
    # Celery's handler raises SystemExit wherever beat is; where a client of Redis swallows that, beat never ends.
    signal.signal(signal.SIGTERM, shutdown.tell)
    _appear(Role.BEAT).show(lambda: WorkerStatus(WorkerState.READY))
    if settings.ready_file:
        settings.ready_file.touch()
