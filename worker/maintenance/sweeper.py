"""The sweeper: keeps jobs moving when workers die and messages are lost."""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable
from datetime import timedelta
from typing import Generic, TypeVar

import structlog

from shared.broker.celery_app import Broker
from shared.broker.wakeups import Wakeups
from shared.database.engine import Database
from shared.domain import Role
from shared.jobs import sweeping, tally
from shared.workers import registry

#: How often the tally is folded, however many processes sweep; it is folded more often when many jobs move.
_FOLD_AFTER = timedelta(seconds=1)
#: A job fails if no worker has had its policy for this long, which is longer than a rolling restart of the workers.
UNSERVED = timedelta(minutes=5)
#: After this long without a look, it is unknown what was present meanwhile.
_BLINK_SECONDS = 30.0

_T = TypeVar("_T", bound=Hashable)

_log = structlog.get_logger(__name__)


class Lasting(Generic[_T]):
    """Remembers for how long things have been present at every look."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[_T, float] = {}
        self._looked_at = 0.0

    def look(self, there: Collection[_T], now: float) -> set[_T]:
        """Return those that have been present at every look for `seconds`."""
        if now - self._looked_at > _BLINK_SECONDS:
            self._since.clear()
        self._looked_at = now
        self._since = {each: self._since.get(each, now) for each in there}
        return {each for each, since in self._since.items() if now - since >= self._seconds}


class Sweeper:
    """Ends overdue jobs, queues the jobs of dead workers again, and tops up the wake-ups in Redis."""

    def __init__(
        self, database: Database, broker: Broker, *, max_attempts: int, unserved: timedelta = UNSERVED
    ) -> None:
        self._database = database
        self._wakeups = Wakeups(broker, database, Role.ANALYSIS)
        self._max_attempts = max_attempts
        self._unserved_for = unserved
        self._unserved: Lasting[tuple[str | None, str]] = Lasting(unserved.total_seconds())

    def sweep(self) -> sweeping.SweepReport | None:
        """Sweep once; return None if another process sweeps now. Any number of processes may call this."""
        tally.fold(self._database, older_than=_FOLD_AFTER)
        self._fail_unserved()
        report = sweeping.sweep(self._database, max_attempts=self._max_attempts)
        if report:
            registry.forget_silent(self._database)
        if report and (report.released or report.exhausted or report.expired):
            #: A sweep moved jobs: `released` ones of dead workers went back to the queue, `exhausted` ones failed as
            #: `attempts_exhausted`, `expired` ones had passed their deadline.
            _log.info("swept", released=report.released, exhausted=report.exhausted, expired=report.expired)
        return report

    def sweep_and_wake(self) -> None:
        """Sweep, then top up the wake-ups: as many as jobs wait, but no more than there are slots."""
        report = self.sweep()
        if report is not None and report.queued:
            self._wakeups.send_for(report.queued)

    def _fail_unserved(self) -> None:
        """Fail the jobs whose policy no worker has had for minutes although workers are ready."""
        for model, policy in self._unserved.look(registry.unserved_policies(self._database), time.monotonic()):
            failed = sweeping.fail_unserved(self._database, model, policy, waited=self._unserved_for)
            if failed:
                #: Jobs waited for minutes for a worker with this policy, while workers without it were ready. They fail
                #: as `model_unavailable`. Start a worker that has the policy, then replay them.
                _log.error("policy_not_served", policy=policy, model=model, failed=failed)
