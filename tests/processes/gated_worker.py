"""The worker's application with a gate before its device: while the file is there, a pass of the device waits.

While the file `silence` beside the gate is there, the worker's heartbeat is silent.

So a test can hold jobs in the middle of their way for as long as it needs, and knows that they are there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from worker.inference.batcher import Floats, Notify, PassResult
from worker.inference.device import Device
from worker.jobs.heartbeat import Heartbeat
from worker.tasks import app

__all__ = ["app"]

_gate = Path(os.environ["TEST_GATE"])
_silence = _gate.with_name("silence")
_run, _beat = Device.__call__, Heartbeat.beat


def _run_when_open(self: Device, images: Sequence[Floats], classifying: Notify) -> list[PassResult]:
    while _gate.exists():
        time.sleep(0.01)
    return _run(self, images, classifying)


def _beat_unless_silent(self: Heartbeat) -> None:
    if not _silence.exists():
        _beat(self)


Device.__call__ = _run_when_open  # type: ignore[method-assign]
Heartbeat.beat = _beat_unless_silent  # type: ignore[method-assign]
