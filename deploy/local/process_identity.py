"""Which process is meant: a process id together with the moment it began, since ids are used again.

Linux only: `/proc` tells the start time, and a pidfd makes sure that a signal reaches that process or none.
"""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from typing import Any, Self

from shared.workers.procfs import boot_id, start_ticks


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, alive or not, which cannot be mistaken for another."""

    pid: int
    started: str  # the boot's id and the start in clock ticks since then

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the identity of the living process `pid`, or None if there is none (a zombie counts as none)."""
        started = _start_of(pid)
        return None if started is None else cls(pid, started)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return _start_of(self.pid) == self.started

    def end(self, number: signal.Signals, seconds: float) -> None:
        """Send the signal `number`; kill the process and its session's group if it still runs after `seconds`."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not self.alive:  # the id belongs to somebody else by now
                return
            signal.pidfd_send_signal(handle, number)
            if not _ended(handle, seconds):
                self._kill(handle)
        except ProcessLookupError:
            return
        finally:
            os.close(handle)

    def _kill(self, handle: int) -> None:
        """Kill at once: the whole group where the process leads one, as all that the stack starts do."""
        if os.getpgid(self.pid) == self.pid:
            os.killpg(self.pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        _ended(handle, seconds=10)


def identity_of(fields: Any) -> ProcessIdentity:
    """Return the identity that a file tells; raise `TypeError`, `KeyError` or `ValueError` for what is none."""
    pid, started = fields["pid"], fields["started"]
    if not (isinstance(pid, int) and pid > 0 and isinstance(started, str)):
        raise ValueError
    return ProcessIdentity(pid, started)


def _ended(handle: int, seconds: float) -> bool:
    """Wait until the process behind the pidfd `handle` has ended; False if `seconds` pass first."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _start_of(pid: int) -> str | None:
    ticks = start_ticks(pid)
    return None if ticks is None else f"{boot_id()}:{ticks}"
