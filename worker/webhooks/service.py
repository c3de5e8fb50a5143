"""A webhook worker: its parts (sender, sweeper, retention), and how it starts and ends. It does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from shared.broker.celery_app import Broker
from shared.crypto import Vault
from shared.database.engine import Database
from shared.domain import WorkerState
from shared.settings import Settings
from shared.storage.object_store import ObjectStore
from shared.webhooks.deliveries import is_due
from shared.workers.registry import WorkerStatus
from worker.egress.http_client import Egress
from worker.maintenance.retention import Retention
from worker.maintenance.sweeper import Sweeper
from worker.process.periodic import Periodic
from worker.process.watchdog import Watchdog
from worker.webhooks.sender import WebhookSender

_RETENTION_SECONDS = 2.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class WebhookParts:
    """What a webhook worker starts and ends."""

    sender: WebhookSender
    sweeper: Sweeper
    retention: Retention
    polling: Periodic
    tidying: Periodic
    watchdog: Periodic
    databases: Sequence[Database]


def build(settings: Settings, broker: Broker) -> WebhookParts:
    """Make the parts and connect them; nothing runs yet."""
    # With the overflow, a connection for each of the sender's threads: none waits to record its try.
    database = _database(settings, connections=16)
    # Its own connections and thread: webhooks and leases must not wait for retention, nor for a slow object store.
    retention_database = _database(settings, connections=4)
    # Its own connection: the watchdog must be able to look even if the senders cannot get a connection.
    watchdog_database = _database(settings, connections=1)
    sender = WebhookSender(
        database,
        Egress(settings.egress_allow),
        Vault(settings.secret_key.get_secret_value()),
        disable_after=settings.webhook_disable_after,
    )
    sweeper = Sweeper(database, broker, max_attempts=settings.max_attempts)
    retention = Retention(retention_database, ObjectStore(settings), retention_days=settings.retention_days)
    return WebhookParts(
        sender,
        sweeper,
        retention,
        polling=Periodic([sender.deliver_due, sweeper.sweep], seconds=settings.poll_seconds, name="polling"),
        tidying=Periodic([retention.tidy], seconds=_RETENTION_SECONDS, name="retention"),
        watchdog=_watchdog(settings, watchdog_database, sender),
        databases=(database, retention_database, watchdog_database),
    )


def _database(settings: Settings, *, connections: int) -> Database:
    return Database(settings.database_url.get_secret_value(), pool_size=connections)


def _watchdog(settings: Settings, database: Database, sender: WebhookSender) -> Periodic:
    watchdog = Watchdog(
        idle=lambda: not sender.closed and not sender.busy,
        taken=lambda: sender.taken,
        waiting=partial(is_due, database, per_endpoint=sender.per_endpoint),
        limit_seconds=settings.watchdog_limit_seconds,
    )
    return Periodic([watchdog.look], seconds=watchdog.seconds, name="watchdog")


class WebhookRuntime:
    """Sends the webhooks that are due, and sweeps, on each wake-up and every `POLL_SECONDS`."""

    def __init__(self, settings: Settings, parts: WebhookParts) -> None:
        self._ready_file = settings.ready_file
        self._parts = parts

    @classmethod
    def load(cls, settings: Settings, broker: Broker) -> WebhookRuntime:
        """Create a webhook worker that has not started yet."""
        return cls(settings, build(settings, broker))

    def begin(self) -> None:
        """Start sending."""
        for part in (self._parts.polling, self._parts.tidying, self._parts.watchdog):
            part.start()
        if self._ready_file:
            self._ready_file.touch()
        _log.info("worker_ready")

    def status(self) -> WorkerStatus:
        """Return the status of this worker, for the registry."""
        sender = self._parts.sender
        state = WorkerState.DRAINING if sender.closed else WorkerState.READY
        return WorkerStatus(state, sender.senders, sender.busy)

    def deliver(self) -> None:
        """Let the sender send what is due."""
        self._parts.sender.deliver_due()

    def sweep(self) -> None:
        """Sweep, and wake workers for the jobs that wait."""
        self._parts.sweeper.sweep_and_wake()

    def stop(self) -> None:
        """Start no further try, and no further deletion."""
        self._parts.sender.stop()
        self._parts.retention.stop()
        if self._ready_file:
            self._ready_file.unlink(missing_ok=True)

    def release_jobs(self) -> bool:
        """Return whether every try is recorded. A try that is not is made again when its lease ends."""
        if tries := self._parts.sender.busy:
            #: A webhook worker stopped before it recorded this many `tries`. They are made again.
            _log.warning("tries_not_recorded", tries=tries)
        return not tries

    def close(self) -> None:
        """Stop after the tries in progress are recorded."""
        parts = self._parts
        for part in (parts.watchdog, parts.tidying, parts.polling, parts.sender):
            part.close()
        for database in parts.databases:
            database.close()
        _log.info("worker_stopped")
