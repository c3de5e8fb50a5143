"""The API with a point at which it can be told to die: the job is committed, nobody was told of it yet."""

from __future__ import annotations

from uuid import UUID

from api.wakeups import WakeupQueue
from api.wsgi import app
from tests.chaos.crash_points import ACCEPTED, crash_if_requested

__all__ = ["app"]

_put = WakeupQueue.put


def _crash_or_put(self: WakeupQueue, job_id: UUID) -> None:
    crash_if_requested(ACCEPTED)
    _put(self, job_id)


WakeupQueue.put = _crash_or_put  # type: ignore[method-assign]
