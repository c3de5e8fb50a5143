"""The API with a point at which it can be told to die: the job is committed, nobody was told of it yet."""

from __future__ import annotations

from uuid import UUID

from api.wakeups import WakeupQueue
from api.wsgi import app
from tests.chaos.deaths import ACCEPTED, die_if_told

__all__ = ["app"]

_put = WakeupQueue.put


def _die_or_put(self: WakeupQueue, job_id: UUID) -> None:
    die_if_told(ACCEPTED)
    _put(self, job_id)


WakeupQueue.put = _die_or_put  # type: ignore[method-assign]
