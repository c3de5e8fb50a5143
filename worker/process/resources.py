"""How many threads compute, and how they wait: settled when `worker` is imported, since torch reads it when it is.

The threads of a pass sleep where they wait for each other. By default they spin: no slower on an idle machine, but
beside the processes that decode and draw each meeting may cost a time slice. (Measured on two busy cores, an image that
takes 24 ms alone: median 35 to 59 ms asleep and 77 to 95 spinning; the slowest of 40, 0.1 to 0.4 s and 1.7 to 2.0.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUP, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def settle_threads(cgroup: Path = _CGROUP) -> None:
    """Set what OpenMP reads, unless the operator did."""
    #: How a worker's threads wait for each other between the steps of a pass.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    #: On how many threads a pass of the model computes; by default as many as there are cores, or a container's quota.
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores(cgroup)))


def usable_cores(cgroup: Path = _CGROUP, own: Path = _OWN_GROUPS) -> int:
    """Return on how many cores this process may compute: its affinity, or its quota of processor time if that is less.

    More threads than the quota has cores would use it up together and then all be stopped, many times a second.
    """
    cores = len(os.sched_getaffinity(0))
    quotas = [quota for group in _groups(cgroup, own) if (quota := _quota(group)) is not None]
    return max(1, min(cores, *map(math.ceil, quotas))) if quotas else cores


def _groups(cgroup: Path, own: Path) -> Iterator[Path]:
    """The control groups that bound this process's time: its own and all above it, as far as they are to be seen.

    A container sees its own as the root. A service of systemd, or a container that shares its host's view, does not.
    """
    yield from (cgroup, cgroup / "cpu", cgroup / "cpu,cpuacct")  # where `own` names no place below them, as inside
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in (cgroup / name for name in ((controllers, "cpu") if controllers else ("", "unified"))):
            group = root / place.lstrip("/")
            yield from (each for each in (group, *group.parents) if each.is_relative_to(root))


def _quota(group: Path) -> float | None:
    """The cores that a group is limited to, by either version of control groups; None where there is no limit."""
    try:
        limit, period = (group / "cpu.max").read_text().split()
    except OSError:
        try:
            limit, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return None
    return None if limit in {"max", "-1"} else int(limit) / int(period)
