"""What a webhook worker is made of: the courier, the sweep, and a look-out for both. It never imports torch."""

from __future__ import annotations

import structlog

from shared.broker import Broker
from shared.crypto import Vault
from shared.database import Database
from shared.settings import Settings
from worker.delivery import Courier
from worker.egress import Egress
from worker.lookout import Lookout
from worker.sweeper import Sweeper

_log = structlog.get_logger(__name__)


class WebhookRuntime:
    """Sends what is due and sweeps, when told to and by itself."""

    def __init__(self, settings: Settings, broker: Broker) -> None:
        self._ready_file = settings.ready_file
        # With the overflow, a connection for each of the courier's senders: none waits to record its try.
        self._database = Database(settings.database_url.get_secret_value(), pool_size=16)
        vault = Vault(settings.secret_key.get_secret_value())
        self._courier = Courier(self._database, Egress(settings.egress_allow), vault)
        self.sweeper = Sweeper(self._database, broker, max_attempts=settings.max_attempts)
        self._lookout = Lookout([self.deliver, self.sweeper.sweep], seconds=settings.poll_seconds)

    @classmethod
    def start(cls, settings: Settings, broker: Broker) -> WebhookRuntime:
        """Begin to send."""
        runtime = cls(settings, broker)
        runtime._lookout.start()
        if settings.ready_file:
            settings.ready_file.touch()
        _log.info("worker_ready")
        return runtime

    def deliver(self) -> None:
        """Have the courier send what is due."""
        self._courier.deliver_due()

    def stop(self) -> None:
        """Say that this worker is not ready any more."""
        if self._ready_file:
            self._ready_file.unlink(missing_ok=True)

    def close(self) -> None:
        """End when the tries under way are recorded."""
        self.stop()
        self._lookout.close()
        self._courier.close()
        self._database.close()
        _log.info("worker_stopped")
