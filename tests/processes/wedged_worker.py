"""The worker's application with a wedge: while the file is there, who looks for work waits, and finds none."""

from __future__ import annotations

import os
import time
from pathlib import Path

from worker.jobs.executor import Executor
from worker.tasks import app
from worker.webhooks.sender import WebhookSender

__all__ = ["app"]

_wedge = Path(os.environ["TEST_WEDGE"])


def _wait(_: object) -> None:
    while _wedge.exists():
        time.sleep(0.01)


for _cls, _name in ((Executor, "look"), (Executor, "work"), (WebhookSender, "deliver_due")):
    setattr(_cls, _name, _wait)
