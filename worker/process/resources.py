"""How many threads compute, and how they wait. Decided when `worker` is imported, since torch reads it on import.

The threads of a pass sleep while they wait for each other. OpenMP's default is to spin, which is no faster on an idle
machine; beside the processes that decode and draw, each wait may then cost a time slice. (Measured on two busy cores,
for an image that takes 24 ms by itself: the median is 35 to 59 ms asleep and 77 to 95 ms spinning, the slowest of 40
is 0.1 to 0.4 s and 1.7 to 2.0 s.)
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from worker.process import cgroups


def settle_threads() -> None:
    """Set the variables that OpenMP reads, unless the operator set them."""
    #: How a worker's threads wait for each other between the steps of a pass.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    #: On how many threads a pass of the model computes; by default as many as there are cores, or a container's quota.
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def usable_cores(root: Path = cgroups.ROOT, own: Path = cgroups.OWN_GROUPS) -> int:
    """Return on how many cores this process may compute: those of its affinity, or of its smallest quota if fewer.

    With more threads than that, they would use up the quota together and all be stopped, many times a second.
    """
    cores = len(os.sched_getaffinity(0))
    return max(1, min([cores, *map(math.ceil, cgroups.cpu_quotas(root, own))]))
