"""What Linux's /proc says of processes: which one an id means, and who may rely on it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
#: In the fields of a process's `stat` line that follow its name.
_STATE, _START = 0, 19


def boot_id() -> str | None:
    """Return the id of this boot of the kernel; None if the kernel does not provide one."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def pid_space() -> str | None:
    """Return a value that two processes share exactly if a process id means the same to both; None if unknown.

    It names the boot, the namespace of process ids, and the time namespace, on which start times depend.
    """
    boot = boot_id()
    try:
        seen = int((_PROC / "self").readlink().name)
        spaces = [(_PROC / "self/ns" / kind).stat().st_ino for kind in ("pid", "time")]
    except OSError:
        return None
    if boot is None or seen != os.getpid():  # this /proc belongs to another namespace of process ids
        return None
    return ":".join([boot, *map(str, spaces)])


def start_ticks(pid: int) -> int | None:
    """Return when the living process `pid` began, in clock ticks since the boot; None if no such process is visible.

    A stopped process counts as living. A zombie does not: it never runs again.
    """
    fields = _stat(pid)
    return None if fields is None or fields[_STATE] in "ZX" else int(fields[_START])


def working_in(folder: Path) -> list[int]:
    """Return the processes whose working directory is `folder`, as far as this process may inspect them."""
    found = []
    for process in _PROC.iterdir():
        if process.name.isdecimal():
            with suppress(OSError):
                if (process / "cwd").samefile(folder):
                    found.append(int(process.name))
    return found


def lock_holder(path: Path) -> int | None:
    """Return the process that holds a lock on a whole file (flock); None if none is visible from here."""
    try:
        file = path.stat()
        lines = (_PROC / "locks").read_text().splitlines()
    except OSError:
        return None
    wanted = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    held = (fields for fields in map(str.split, lines) if fields[1] == "FLOCK" and fields[5] == wanted)
    return next((int(fields[4]) for fields in held if int(fields[4]) > 0), None)


def is_gone(pid: int, ticks: int) -> bool:
    """Whether the process `pid` that began at `ticks` has certainly ended; if this is unknown, it counts as alive."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it exists and belongs to another user: /proc may hide it
    fields = _stat(pid)
    return fields is not None and (fields[_STATE] in "ZX" or int(fields[_START]) != ticks)


def _stat(pid: int) -> list[str] | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()  # the process name before it may contain anything, even parentheses
