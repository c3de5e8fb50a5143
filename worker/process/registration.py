"""How a worker registers: a row with its state, renewed each second, and a check for neighbours that have died."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from shared.database.engine import Database
from shared.domain import Role, WorkerState
from shared.settings import CommonSettings
from shared.workers import registry
from shared.workers.registry import WorkerIdentity, WorkerStatus
from worker.process.periodic import Periodic

_BEAT_SECONDS = 1.0
_LEAVE_SECONDS = 3.0

_log = structlog.get_logger(__name__)


class Registration:
    """This process's row in the list of workers, from its start to its end.

    It has its own thread and connection, so that a worker that is stuck elsewhere is still listed, with its state.
    """

    def __init__(self, settings: CommonSettings, role: Role) -> None:
        self.identity = WorkerIdentity.of_this_process(role)
        self._began = time.monotonic()
        self._database = Database(settings.database_url.get_secret_value(), pool_size=1)
        self._report: Callable[[], WorkerStatus] = lambda: WorkerStatus(WorkerState.STARTING)
        self._periodic = Periodic(
            [self.beat, self.expire_leases_of_dead_workers],
            seconds=_BEAT_SECONDS,
            name="registration",
            on_close=self._leave,
        )

    def start(self) -> None:
        """Register this worker."""
        self._periodic.start()

    def show(self, report: Callable[[], WorkerStatus]) -> None:
        """From now on write at each beat what `report` returns."""
        self._report = report

    def beat(self) -> None:
        """Write the state of this worker."""
        age = timedelta(seconds=time.monotonic() - self._began)
        registry.beat(self._database, self.identity, self._report(), age=age)

    def expire_leases_of_dead_workers(self) -> None:
        """End the leases of workers of this host that have died, so that their jobs run elsewhere at once."""
        for worker in registry.expire_leases_of_dead_workers(self._database, self.identity):
            #: Another worker of this host died. Its jobs run again at once.
            _log.warning("worker_found_dead", worker=worker)

    def close(self, within: float = _LEAVE_SECONDS) -> None:
        """Unregister, within so many seconds. If the database does not answer, other workers delete the row later."""
        self._periodic.close(within)

    def _leave(self) -> None:
        registry.leave(self._database, self.identity)
        self._database.close()
