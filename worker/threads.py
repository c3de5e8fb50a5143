"""How many threads compute, and how they wait: settled when `worker` is imported, since torch reads it when it is.

The threads of a pass sleep where they wait for each other. By default they spin: no slower on an idle machine, but
beside the processes that decode and draw each meeting may cost a time slice. (Measured on two busy cores, an image that
takes 24 ms alone: median 35 to 59 ms asleep and 77 to 95 spinning; the slowest of 40, 0.1 to 0.4 s and 1.7 to 2.0.)
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def settle_threads(cgroup: Path = _CGROUP) -> None:
    """Set what OpenMP reads, unless the operator did."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores(cgroup)))


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Return on how many cores this process may compute: its affinity, or its container's quota if that is less.

    More threads than the quota has cores would use it up together and then all be stopped, many times a second.
    """
    cores = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """The cores that a container is limited to, by either version of control groups; None where there is no limit."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except OSError:
        try:
            limit, period = ((cgroup / f"cpu/cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return None
    return None if limit in {"max", "-1"} else int(limit) / int(period)
