"""When to send a wake-up: only while fewer wait in Redis than the workers have slots.

A worker that was woken works until no job is left, and one whose slots are all in use fetches no wake-up. More wake-ups
than slots would have no effect, and would fill Redis.
"""

from __future__ import annotations

import time
from contextlib import suppress

from shared.broker.celery_app import ANALYSIS_QUEUE, ANALYZE, DELIVER, WEBHOOK_QUEUE, Broker
from shared.database.engine import Database
from shared.domain import Role
from shared.errors import DatabaseUnavailableError
from shared.workers.registry import slots_of

#: Seconds between two counts of the slots.
_COUNTED_SECONDS = 5.0
#: The slots of a worker with the default settings.
_SLOTS_OF_ONE = 16
_QUEUES_AND_TASKS = {Role.ANALYSIS: (ANALYSIS_QUEUE, ANALYZE), Role.WEBHOOKS: (WEBHOOK_QUEUE, DELIVER)}


class Wakeups:
    """Wakes the workers of one role. It asks PostgreSQL and Redis, so call it where no request waits for it."""

    def __init__(self, broker: Broker, database: Database, role: Role) -> None:
        self._broker = broker
        self._database = database
        self._role = role
        self._queue, self._task = _QUEUES_AND_TASKS[role]
        self._slots = _SLOTS_OF_ONE
        self._counted_at = -_COUNTED_SECONDS

    def send(self, reference: str | None = None) -> None:
        """Send one wake-up, unless enough wait or Redis does not answer. Workers also look for work without one."""
        waiting = self._broker.waiting(self._queue)
        if waiting is not None and waiting < self._count_slots():
            self._broker.wake(self._queue, self._task, reference)

    def send_for(self, jobs: int) -> None:
        """Send wake-ups until one waits for each of `jobs` jobs, or for each slot if there are fewer slots."""
        waiting = self._broker.waiting(self._queue)
        if waiting is None:
            return
        for _ in range(min(jobs, self._count_slots()) - waiting):
            if not self._broker.wake(self._queue, self._task):
                return

    def _count_slots(self) -> int:
        """Return the number of slots; that of one worker while there is none, because one will soon start."""
        if time.monotonic() - self._counted_at >= _COUNTED_SECONDS:
            self._counted_at = time.monotonic()
            with suppress(DatabaseUnavailableError):
                self._slots = slots_of(self._database, self._role) or _SLOTS_OF_ONE
        return self._slots
