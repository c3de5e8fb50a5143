"""The limits of a container or of a systemd service, read from its control groups of version 1 or 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

#: Where control groups are mounted, and the file that names those of this process.
ROOT, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cpu_quotas(root: Path = ROOT, own: Path = OWN_GROUPS) -> list[float]:
    """Return the quotas of processor time, in cores, of all groups that hold this process; none where none is set."""
    return [quota for group in _cpu_groups(root, own) if (quota := _cpu_quota(group)) is not None]


def memory_limit(root: Path = ROOT) -> int | None:
    """Return the bytes of memory that the container may use; None where it has no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of version 2, of version 1
        limit = _read(root / name)
        if limit is not None and limit != "max":
            return int(limit)
    return None


def _cpu_groups(root: Path, own: Path) -> Iterator[Path]:
    """The groups that limit this process's time: its own and all above it that are visible.

    A container sees its own group as the root. A service of systemd, or a container that shares its host's view, does
    not: the file `own` names the group.
    """
    yield from (root, root / "cpu", root / "cpu,cpuacct")  # a container's own, where `own` names no group below
    for line in (_read(own) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (root / name for name in ((controllers, "cpu") if controllers else ("", "unified"))):
            group = mount / place.lstrip("/")
            yield from (each for each in (group, *group.parents) if each.is_relative_to(mount))


def _cpu_quota(group: Path) -> float | None:
    """The cores that a group may use; None where it has no limit."""
    both = _read(group / "cpu.max")
    limits: list[str | None] = (
        list(both.split())
        if both is not None
        else [_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    )
    limit, period = limits
    return None if limit is None or period is None or limit in {"max", "-1"} else int(limit) / int(period)


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None
