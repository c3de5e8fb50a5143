"""A limit of processor time, in a control group of either version: only root can make one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PERIOD_MICROSECONDS = 100_000
_LEAVING_SECONDS = 20


class Quota:
    """A control group whose processes, and those that they start, have so much of a core together."""

    def __init__(self, name: str, cores: float) -> None:
        """Be about a group that is not there yet."""
        quota = int(cores * _PERIOD_MICROSECONDS)
        self._forms = (
            (_ROOT / "cpu" / name, "cpu.cfs_quota_us", str(quota)),
            (_ROOT / name, "cpu.max", f"{quota} {_PERIOD_MICROSECONDS}"),
        )
        self._group: Path | None = None

    def make(self) -> bool:
        """Make the group; return whether this machine and user can."""
        for group, file, limit in self._forms:
            with contextlib.suppress(OSError):
                group.mkdir()
                if (group / file).exists():
                    (group / file).write_text(limit, encoding="ascii")
                    self._group = group
                    return True
                group.rmdir()
        return False

    def hold(self, pids: Iterable[int]) -> None:
        """Put processes into the group."""
        assert self._group is not None
        _move(pids, self._group)

    def remove(self) -> None:
        """Take the limit away, and put whoever is left back with all others."""
        if self._group is None:
            return
        give_up_at = time.monotonic() + _LEAVING_SECONDS
        while pids := (self._group / "cgroup.procs").read_text(encoding="ascii").split():
            assert time.monotonic() < give_up_at
            _move(map(int, pids), self._group.parent)
        self._group.rmdir()
        self._group = None


def _move(pids: Iterable[int], group: Path) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            (group / "cgroup.procs").write_text(str(pid), encoding="ascii")
