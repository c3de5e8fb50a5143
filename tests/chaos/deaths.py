"""Points of a process at which it can be told to die: by kill -9 from its own hand, so exactly there.

An order is a file named after the point; the first process that passes it takes the order by renaming the file, which
says who it was. Only the modules `mortal_…` import this into a process of the product.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

#: Where a process looks for orders: the name of an environment variable.
FOLDER = "CHAOS_DEATHS"
#: Of the API: the job is committed, nobody was told.
ACCEPTED = "accepted"
#: Of a worker: the verdict is committed, the wake-up is not acknowledged.
DECIDED = "decided"
STAGES = ("fetching", "decoding", "diffusing", "classifying", "rendering", "storing")
_LOOK_SECONDS = 0.005

#: Read now: a process of the product keeps no variable that it does not know.
_orders = os.environ.get(FOLDER)


def die_if_told(point: str) -> None:
    """Kill this process and its children if there is an order for `point`."""
    assert _orders is not None, FOLDER
    order = Path(_orders) / point
    if order.exists():
        with contextlib.suppress(FileNotFoundError):  # another was first
            order.rename(order.with_name(f"{point}.{os.getpid()}"))
            os.killpg(0, signal.SIGKILL)


def have_one_die(folder: Path, point: str, patience: float) -> bool:
    """Order a death and wait for it; False, and the order is withdrawn, where none passed the point in time."""
    order = folder / point
    order.touch()
    give_up_at = time.monotonic() + patience
    while order.exists():
        if time.monotonic() > give_up_at:
            with contextlib.suppress(FileNotFoundError):  # it was taken at the last moment
                order.unlink()
                return False
        time.sleep(_LOOK_SECONDS)
    return True
