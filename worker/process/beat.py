"""The scheduler of beat, which sends no tick while no worker fetches them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from celery.beat import ScheduleEntry, Scheduler

from shared.broker.celery_app import SWEEP_QUEUE, Broker

#: How many ticks may wait: one that is being fetched, and the next. More would pile up while no webhook worker runs.
_MOST_WAITING = 2


class QuietScheduler(Scheduler):
    """Sends a tick only where few wait: Redis keeps even expired ones until a worker fetches them.

    It keeps no file: the schedule is code, and any tick may be lost.
    """

    @cached_property
    def _broker(self) -> Broker:
        return Broker(self.app)

    def apply_async(self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **options: Any) -> Any:  # noqa: FBT001, FBT002  # Celery's signature
        """Send an entry's task; skip it where enough wait or Redis does not answer."""
        waiting = self._broker.waiting(SWEEP_QUEUE)
        if waiting is None or waiting >= _MOST_WAITING:
            return None
        return super().apply_async(entry, producer=producer, advance=advance, **options)
