"""Limits the time and the memory of each pass of the device. A pass cannot be interrupted, so the process is ended."""

from __future__ import annotations

import faulthandler
import math
import os
import resource
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from shared.domain import AttemptId
from shared.errors import DistildireError
from worker.inference.batcher import GiveUp
from worker.process import cgroups

#: How often a pass is checked. In between, an endless allocation fills a gigabyte or two at worst.
_TICK_SECONDS = 0.1
#: The time limit of a pass is so many times what a pass is expected to take, and at least the floor: a busy machine may
#: delay any process for a few seconds.
_LIMIT_FACTOR, _FLOOR_SECONDS = 10, 5.0
#: With a smaller factor, a busy machine would end sound passes.
_LEAST_LIMIT_FACTOR = 2
#: A pass that has used up this share of its time limit is late.
_LATE_SHARE = 0.2
#: How long after the longest time limit a process is ended in which no Python code runs any more.
_LOCKED_SECONDS = 5.0
#: The share of the memory that this process may use by itself: its decoding children need some too.
_SHARE_OF_MEMORY = 0.8

_log = structlog.get_logger(__name__)


class PassTooSlowError(DistildireError):
    """The device is too slow for the limit of a pass."""


class PassWatchdog:
    """Calls `give_up` when a pass takes longer than `seconds`, or brings the process above `memory_bytes`.

    Seconds are counted in ticks of the watchdog's own thread: the time for which the process was stopped, or got no
    processor, does not count. A driver that holds the interpreter's lock stops this thread too; then a timer in the
    interpreter's own C code ends the process some seconds after `ceiling`. That timer alone would not do: it does not
    say whose pass it was, and it reads the frames of threads that run on, which can crash.
    """

    def __init__(self, give_up: GiveUp, *, seconds: float, ceiling: float, memory_bytes: int) -> None:
        self._give_up = give_up
        self._seconds = seconds
        self._ceiling = ceiling
        self._memory_bytes = memory_bytes
        # Set when the pass that was found late ends. One event for each pass: a pass may end just as it is found late.
        self._late_one_ended: threading.Event | None = None

    @property
    def late(self) -> bool:
        """Whether the pass that runs now takes much longer than expected."""
        ended = self._late_one_ended
        return ended is not None and not ended.is_set()

    @contextmanager
    def __call__(self, attempts: Sequence[AttemptId]) -> Iterator[None]:
        """Watch a pass with images of these attempts until the block ends."""
        ended = threading.Event()
        watching = [ended, threading.get_ident(), attempts]
        threading.Thread(target=self.watch, args=watching, name="pass watch", daemon=True).start()
        faulthandler.dump_traceback_later(self._ceiling + _LOCKED_SECONDS, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            ended.set()

    def watch(self, ended: threading.Event, thread: int, attempts: Sequence[AttemptId]) -> None:
        """Check the pass of `thread` at each tick until `ended` is set or the pass exceeds a limit."""
        ticks = 0
        while not ended.wait(_TICK_SECONDS):
            ticks += 1
            if ticks * _TICK_SECONDS >= _LATE_SHARE * self._seconds:
                self._late_one_ended = ended
            if ticks * _TICK_SECONDS >= self._seconds:
                #: A pass of the device hangs: it took these `seconds`. The worker writes the stack and the jobs of that
                #: pass, returns its jobs to the queue and ends with status 1.
                _log.critical("device_stuck", seconds=self._seconds, **_evidence(thread, attempts))
                self._give_up(attempts)
                return
            if resident_bytes() > self._memory_bytes:
                #: A pass of the device brought the worker above `MEMORY_BYTES`. The worker writes the stack and the
                #: jobs of that pass, returns its jobs to the queue and ends with status 1.
                _log.critical("device_takes_all_memory", memory_bytes=self._memory_bytes, **_evidence(thread, attempts))
                self._give_up(attempts)
                return


def _evidence(thread: int, attempts: Sequence[AttemptId]) -> dict[str, Any]:
    """Return the jobs whose images are in the pass, and the stack of its thread."""
    stack = "".join(traceback.format_stack(sys._current_frames().get(thread)))  # noqa: SLF001  # the documented way
    return {"jobs": [str(attempt.job_id) for attempt in attempts], "stack": stack}


def pass_limit(expected: float, ceiling: float) -> float:
    """Return the time limit in seconds of a pass that is expected to take `expected` seconds; at most `ceiling`.

    Raises:
        PassTooSlowError: with this ceiling, sound passes would end the process.

    """
    if ceiling < _LEAST_LIMIT_FACTOR * expected:
        raise PassTooSlowError(
            f"A pass takes {expected:.3g} s on this device, and DISTILDIRE_PASS_SECONDS allows {ceiling:g}. "
            f"Set it to {math.ceil(_LIMIT_FACTOR * expected)}, or use a faster device or a smaller model."
        )
    return min(ceiling, max(_FLOOR_SECONDS, _LIMIT_FACTOR * expected))


def memory_limit(root: Path = cgroups.ROOT) -> int:
    """Return the bytes that this process may use by itself: most of its container's memory, or of the machine's."""
    machine = os.sysconf("SC_PHYS_PAGES") * resource.getpagesize()
    return int(_SHARE_OF_MEMORY * min(machine, cgroups.memory_limit(root) or machine))


def resident_bytes() -> int:
    """Return how much memory this process uses now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()
