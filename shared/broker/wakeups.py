"""When to wake: while fewer wake-ups wait in Redis than the workers have slots, so that none pile up there.

A woken worker goes on until nothing is left, and one whose slots are all taken fetches no wake-up. More of them than
there are slots would say nothing new, and Redis would fill.
"""

from __future__ import annotations

import time
from contextlib import suppress

from shared.broker.celery_app import ANALYSIS_QUEUE, ANALYZE, DELIVER, WEBHOOK_QUEUE, Broker
from shared.database.engine import Database
from shared.errors import DatabaseUnavailableError
from shared.workers.registry import Role, slots_of

#: The slots are counted so often.
_COUNTED_SECONDS = 5.0
#: Of a worker with the default settings.
_SLOTS_OF_ONE = 16
_QUEUES_AND_TASKS = {Role.ANALYSIS: (ANALYSIS_QUEUE, ANALYZE), Role.WEBHOOKS: (WEBHOOK_QUEUE, DELIVER)}


class Wakeups:
    """Wakes the workers of one role. It asks PostgreSQL and Redis, so call it where nobody waits for it."""

    def __init__(self, broker: Broker, database: Database, role: Role) -> None:
        self._broker = broker
        self._database = database
        self._role = role
        self._queue, self._task = _QUEUES_AND_TASKS[role]
        self._slots = _SLOTS_OF_ONE
        self._counted_at = -_COUNTED_SECONDS

    def send(self, reference: str | None = None) -> None:
        """Publish one wake-up more, unless enough wait; none where Redis does not answer. Workers look anyway."""
        waiting = self._broker.waiting(self._queue)
        if waiting is not None and waiting < self._count_slots():
            self._broker.wake(self._queue, self._task, reference)

    def send_for(self, jobs: int) -> None:
        """See to it that a wake-up waits for each of so many jobs, or for each slot where these are fewer."""
        waiting = self._broker.waiting(self._queue)
        if waiting is None:
            return
        for _ in range(min(jobs, self._count_slots()) - waiting):
            if not self._broker.wake(self._queue, self._task):
                return

    def _count_slots(self) -> int:
        """Return how many slots there are; those of one worker where none is there, which will soon come."""
        if time.monotonic() - self._counted_at >= _COUNTED_SECONDS:
            self._counted_at = time.monotonic()
            with suppress(DatabaseUnavailableError):
                self._slots = slots_of(self._database, self._role) or _SLOTS_OF_ONE
        return self._slots
