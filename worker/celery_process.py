"""One of Celery's processes, a worker or beat: what it is made of, and what Celery's signals start and stop in it.

A worker's queues are its role: one that consumes `analysis` runs the model, any other delivers webhooks and sweeps.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import structlog
from celery import Celery, signals

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
from worker.process.shutdown import Service, Shutdown

SWEEP_SECONDS = 2.0
_QUIET_LOGGERS = ("celery.app.trace", "celery.worker.strategy", "celery.beat")  # a line or two for every wake-up

_log = structlog.get_logger(__name__)


class Process:
    """The settings, the Celery application, the registration and the services of this process.

    It becomes a worker or beat when Celery sends the signals that `connect` listens to.
    """

    def __init__(self, settings: CommonSettings, shutdown: Shutdown) -> None:
        self.app = _make_app(settings)
        self._settings = settings
        self._shutdown = shutdown
        self._shutdown.seconds = settings.drain_seconds
        self._callbacks: dict[str, Callable[[], object]] = {}

    def connect(self) -> None:
        """Have Celery's signals configure, start and stop this process."""
        atexit.register(_discard_unwritten_output)
        for signalled, receiver in (
            (signals.setup_logging, self._configure_logging),
            (signals.celeryd_init, _be_quiet),
            (signals.celeryd_after_setup, self._start_worker),
            (signals.worker_shutting_down, self._tell_shutdown),
            (signals.worker_shutdown, self._close_services),
            (signals.beat_init, self._start_beat),
        ):
            signalled.connect(receiver, weak=False)

    def call(self, task: str, reference: str | None = None) -> None:
        """Do the work of `task`. Raises nothing: Celery would not repeat a task that failed."""
        try:
            self._callbacks[task]()
        except DatabaseUnavailableError:
            _log.warning("database_away", task=task)  # no fault of the code: a line, not a traceback
        # The boundary of every task: a MemoryError that leaves a task's body wedges the worker for good (celery 10462).
        except Exception:  # noqa: BLE001
            #: A wake-up met an error that the worker does not expect. The worker goes on. Report the traceback.
            _log.exception("task_failed", task=task, reference=reference)

    def _configure_logging(self, **_: object) -> None:
        configure_logging(self._settings.log_level)
        logging.getLogger("celery.beat").addFilter(_without_stack)
        for name in _QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)

    def _start_worker(self, **_: object) -> None:
        """Start the services that the queues of this worker need, before Celery connects to Redis."""
        try:
            if self._settings.ready_file:
                self._settings.ready_file.unlink(missing_ok=True)  # a process that was killed left it
            self._start_services(set(self.app.amqp.queues.consume_from))
        except Exception as error:  # noqa: BLE001  # Celery would log it and go on without the services
            if isinstance(error, DistildireError):
                #: The worker ends before it takes a job. `reason`, or the traceback, says why; the exit status says
                #: whether another start may succeed.
                _log.critical("worker_cannot_start", reason=error.message)
            else:
                _log.critical("worker_cannot_start", exc_info=True)
            sys.exit(_exit_status(error))

    def _start_services(self, queues: set[str]) -> None:
        broker = Broker(self.app)
        registration = self._register(Role.ANALYSIS if ANALYSIS_QUEUE in queues else Role.WEBHOOKS)
        if ANALYSIS_QUEUE in queues:
            from worker.jobs.service import AnalysisRuntime  # imports numpy and Pillow, and torch when it loads

            analysis = AnalysisRuntime.load(AnalysisSettings.read(), broker, worker=registration.identity.id)
            self._begin(analysis)
            self._callbacks[ANALYZE] = analysis.wake
        if queues & {WEBHOOK_QUEUE, SWEEP_QUEUE}:
            from worker.webhooks.service import WebhookRuntime

            webhooks = WebhookRuntime.load(Settings.read(), broker)
            self._begin(webhooks)
            self._callbacks |= {DELIVER: webhooks.deliver, SWEEP: webhooks.sweep}
        if self._shutdown.services:
            registration.show(self._shutdown.services[0].status)

    def _begin(self, service: Service) -> None:
        self._shutdown.services.append(service)  # before it begins: a shutdown that comes now must stop it too
        service.begin()

    def _register(self, role: Role) -> Registration:
        """Put this process on the list of workers. However it ends, short of being killed, it takes itself off."""
        registration = Registration(self._settings, role)
        registration.start()
        self._shutdown.on_close = registration.close
        atexit.register(registration.close)
        return registration

    def _tell_shutdown(self, **_: object) -> None:
        """Called in the signal handler, before Celery waits for the threads of its tasks."""
        self._shutdown.tell()

    def _close_services(self, **_: object) -> None:
        for service in self._shutdown.services:
            service.close()

    def _start_beat(self, **_: object) -> None:
        # Celery's own handler raises SystemExit in the middle of beat's code. A Redis client that swallows it would
        # leave beat running for ever.
        signal.signal(signal.SIGTERM, self._shutdown.tell)
        self._register(Role.BEAT).show(lambda: WorkerStatus(WorkerState.READY))
        if self._settings.ready_file:
            self._settings.ready_file.touch()


def _make_app(settings: CommonSettings) -> Celery:
    app = make_celery(settings)
    app.conf.update(
        worker_pool="threads",  # the model is in one process, its jobs on threads
        worker_concurrency=settings.slot_count,  # one thread for each job that may run at once
        beat_schedule={
            SWEEP: {
                "task": SWEEP,
                "schedule": SWEEP_SECONDS,
                "options": {"queue": SWEEP_QUEUE, "expires": 2 * SWEEP_SECONDS},
            }
        },
        beat_scheduler="worker.process.beat:QuietScheduler",
    )
    return app


def _be_quiet(instance: Any, **_: object) -> None:
    """Print no banner: on a full disk, writing it would end the worker."""
    instance.quiet = True


def _without_stack(record: logging.LogRecord) -> bool:
    """Keep the sentence about a tick that beat could not send, and drop the stacks that Celery adds to it."""
    if record.exc_info and isinstance(record.args, tuple):
        record.msg, record.args, record.exc_info = "%s", record.args[:1], None
    return True


def _exit_status(error: Exception) -> int:
    """Return the status with which a worker ends that `error` kept from starting.

    78 where another start would fail too: a card is wrong, or weights are altered or fail their self-test. 2 where a
    setting is missing or wrong. 1 otherwise: a driver or a disk that is missing now may be there at the next start.
    """
    from worker.model.cards.registry import CardError, ModelError

    if isinstance(error, SettingsError):
        return 2
    if not isinstance(error, ModelError):
        return 1
    from worker.model.self_test import SelfTestError
    from worker.model.weights.digests import AlteredError  # these import torch, which was there to raise a ModelError

    return os.EX_CONFIG if isinstance(error, AlteredError | CardError | SelfTestError) else 1


def _discard_unwritten_output() -> None:
    """Drop output that cannot be written: Python would try again at its very end, and then exit with status 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
