"""The worker's application with a gate before its device: while the file is there, a pass of the device waits.

So a test can hold jobs in the middle of their way for as long as it needs, and knows that they are there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from worker.batcher import Finding, Floats
from worker.device import Device
from worker.tasks import app

__all__ = ["app"]

_gate = Path(os.environ["TEST_GATE"])
_run = Device.__call__


def _run_when_open(self: Device, images: Sequence[Floats]) -> list[Finding]:
    while _gate.exists():
        time.sleep(0.01)
    return _run(self, images)


Device.__call__ = _run_when_open  # type: ignore[method-assign]
