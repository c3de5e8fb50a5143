"""The worker's application with a fault: while the file is there, each wake-up runs out of memory."""

from __future__ import annotations

import os
from pathlib import Path

from worker.jobs.service import AnalysisRuntime
from worker.tasks import app

__all__ = ["app"]

_fault = Path(os.environ["TEST_FAULT"])
_wake = AnalysisRuntime.wake


def _wake_or_fail(self: AnalysisRuntime) -> None:
    if _fault.exists():
        raise MemoryError
    _wake(self)


AnalysisRuntime.wake = _wake_or_fail  # type: ignore[method-assign]
