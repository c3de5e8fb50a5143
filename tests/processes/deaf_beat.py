"""The worker's application with a beat in which no exception gets far, not even the one that Celery ends it by."""

from __future__ import annotations

import contextlib
import time

from celery.beat import Scheduler

from worker.tasks import app

__all__ = ["app"]


def _tick(_self: Scheduler) -> float:
    with contextlib.suppress(BaseException):
        time.sleep(1000)
    return 1.0


Scheduler.tick = _tick  # type: ignore[method-assign, assignment]
