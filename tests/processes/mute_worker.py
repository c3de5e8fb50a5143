"""The worker's application on a full disk: nothing it logs can be written, and no file can grow."""

from __future__ import annotations

import os
import resource

from worker.tasks import app

__all__ = ["app"]

_full = os.open("/dev/full", os.O_WRONLY)
for _descriptor in (1, 2):
    os.dup2(_full, _descriptor)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
