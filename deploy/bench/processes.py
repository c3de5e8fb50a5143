"""Processor time and memory of a process and its descendants, from Linux's /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
#: Fields of /proc/PID/stat after the name in brackets.
_PARENT, _UTIME, _CSTIME = 1, 11, 14


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its descendants; that of ended ones is in their parents', once those waited."""
    ticks = (sum(map(int, _stat(member)[_UTIME : _CSTIME + 1])) for member in tree(pid))
    return sum(ticks) / _TICKS


def resident_bytes(pid: int) -> int:
    """Memory that a process and its descendants hold; what several share is counted once (PSS)."""
    return sum(_proportional_bytes(member) for member in tree(pid))


def tree(pid: int) -> list[int]:
    """A process and its descendants that live."""
    children: dict[int, list[int]] = {}
    for member in _processes():
        stat = _stat(member)
        if stat:
            children.setdefault(int(stat[_PARENT]), []).append(member)
    found = [pid]
    for member in found:  # grows as it goes
        found += children.get(member, [])
    return found


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _stat(pid: int) -> list[str]:
    """The fields after the name; none for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
