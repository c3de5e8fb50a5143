"""What a webhook worker is made of: the sender, the sweep, retention, and who calls them. No torch here."""

from __future__ import annotations

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

#: How often retention looks whether there is work.
_HOUSEKEEPING_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class WebhookRuntime:
    """Sends what is due and sweeps, when told to and by itself."""

    def __init__(self, settings: Settings, broker: Broker) -> None:
        self._ready_file = settings.ready_file
        # With the overflow, a connection for each of the sender's threads: none waits to record its try.
        self._database = Database(settings.database_url.get_secret_value(), pool_size=16)
        vault = Vault(settings.secret_key.get_secret_value())
        self._sender = WebhookSender(self._database, Egress(settings.egress_allow), vault)
        self.sweeper = Sweeper(self._database, broker, max_attempts=settings.max_attempts)
        self._periodic = Periodic([self.deliver, self.sweeper.sweep], seconds=settings.poll_seconds)
        # Both of its own: neither senders nor leases are to wait for it, nor for a store that is slow.
        self._retention_database = Database(settings.database_url.get_secret_value(), pool_size=4)
        self._retention = Retention(
            self._retention_database, ObjectStore(settings), retention_days=settings.retention_days
        )
        self._housekeeping = Periodic([self._retention.tidy], seconds=_HOUSEKEEPING_SECONDS, name="housekeeping")
        # Of its own: where the senders wait for connections in vain, it must not.
        self._watch_database = Database(settings.database_url.get_secret_value(), pool_size=1)
        watchdog = Watchdog(
            idle=lambda: not self._sender.closed and not self._sender.busy,
            taken=lambda: self._sender.taken,
            waiting=partial(is_due, self._watch_database, per_endpoint=self._sender.per_endpoint),
            patience_seconds=settings.watchdog_patience,
        )
        self._watch = Periodic([watchdog.look], seconds=watchdog.seconds, name="watchdog")

    def begin(self) -> None:
        """Begin to send."""
        for part in (self._periodic, self._housekeeping, self._watch):
            part.start()
        if self._ready_file:
            self._ready_file.touch()
        _log.info("worker_ready")

    def status(self) -> WorkerStatus:
        """Return how this worker fares."""
        state = WorkerState.DRAINING if self._sender.closed else WorkerState.READY
        return WorkerStatus(state, self._sender.senders, self._sender.busy)

    def deliver(self) -> None:
        """Have the sender send what is due."""
        self._sender.deliver_due()

    def stop(self) -> None:
        """Begin no further try, and nothing that is to be tidied."""
        self._sender.stop()
        self._retention.stop()
        if self._ready_file:
            self._ready_file.unlink(missing_ok=True)

    def release_jobs(self) -> bool:
        """Return whether every try is recorded: one that is not is made again when its lease ends."""
        if tries := self._sender.busy:
            #: A webhook worker that stops could not record so many `tries`. They are made again.
            _log.warning("tries_not_recorded", tries=tries)
        return not tries

    def close(self) -> None:
        """End when the tries under way are recorded."""
        for part in (self._watch, self._housekeeping, self._periodic, self._sender):
            part.close()
        for database in (self._database, self._retention_database, self._watch_database):
            database.close()
        _log.info("worker_stopped")
