"""Points of a process at which it can be told to crash: it kills itself with kill -9, so exactly there.

A request is a file named after the point. The first process that passes the point takes the request: it renames the
file, which says who it was. Only the modules `crashing_…` import this into a process of the product.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

#: Where a process looks for requests: the name of an environment variable.
FOLDER = "CHAOS_CRASH_POINTS"
#: Of the API: the job is committed, nobody was told.
ACCEPTED = "accepted"
#: Of a worker: the verdict is committed, the wake-up is not acknowledged.
DECIDED = "decided"
STAGES = ("fetching", "decoding", "diffusing", "classifying", "rendering", "storing")
_LOOK_SECONDS = 0.005

#: Read now: a process of the product keeps no variable that it does not know.
_requests = os.environ.get(FOLDER)


def crash_if_requested(point: str) -> None:
    """Kill this process and its children if there is a request for `point`."""
    assert _requests is not None, FOLDER
    request = Path(_requests) / point
    if request.exists():
        with contextlib.suppress(FileNotFoundError):  # another was first
            request.rename(request.with_name(f"{point}.{os.getpid()}"))
            os.killpg(0, signal.SIGKILL)


def request_crash(folder: Path, point: str, timeout: float) -> bool:
    """Request a crash and wait for it. Where no process passes the point in time, withdraw it and return False."""
    request = folder / point
    request.touch()
    give_up_at = time.monotonic() + timeout
    while request.exists():
        if time.monotonic() > give_up_at:
            with contextlib.suppress(FileNotFoundError):  # it was taken at the last moment
                request.unlink()
                return False
        time.sleep(_LOOK_SECONDS)
    return True
