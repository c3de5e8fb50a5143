"""Watches each pass of the device, for its time and its memory: a pass that has gone wrong cannot be interrupted."""

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

#: So often is looked. An endless allocation fills a gigabyte or two meanwhile, at worst.
_TICK_SECONDS = 0.1
#: A pass may take so many times what the slowest should; below the floor, what a busy machine does to any process.
_PATIENCE, _FLOOR_SECONDS = 10, 5.0
#: With less than that, a busy machine would end sound passes.
_LEAST_PATIENCE = 2
#: A pass that has used up so much of its time is late.
_LATE_SHARE = 0.2
#: How much later than the longest limit the watch ends a process in which no Python runs any more.
_LOCKED_SECONDS = 5.0
#: What a process may use by itself of the memory there is: its decoding children need some too.
_SHARE_OF_MEMORY = 0.8
_CGROUP = Path("/sys/fs/cgroup")

_log = structlog.get_logger(__name__)


class PassTooSlowError(DistildireError):
    """The device is too slow for the limit of a pass."""


class PassWatchdog:
    """Has the process given up when a pass takes longer than `seconds`, or brings it above `memory_bytes`.

    Seconds are counted in ticks of the watch's own thread: a process that was stopped, or got no processor, is not
    stuck. Where a driver holds the interpreter's lock no Python runs, nor this watch: then a timer in the interpreter's
    own C code ends the process after `ceiling` seconds. That one alone would not do: it tells nobody whose pass it was,
    and it reads the frames of threads that run on, which can crash.
    """

    def __init__(self, give_up: GiveUp, *, seconds: float, ceiling: float, memory_bytes: int) -> None:
        self._give_up = give_up
        self._seconds = seconds
        self._ceiling = ceiling
        self._memory_bytes = memory_bytes
        # Of the pass that was found late. Kept by pass: a watch may find a pass late in the moment in which it ends.
        self._late_one_ended: threading.Event | None = None

    @property
    def late(self) -> bool:
        """Whether the pass that runs now takes much longer than passes do."""
        ended = self._late_one_ended
        return ended is not None and not ended.is_set()

    @contextmanager
    def __call__(self, attempts: Sequence[AttemptId]) -> Iterator[None]:
        """Watch a pass with these images for as long as the block runs."""
        ended = threading.Event()
        watching = [ended, threading.get_ident(), attempts]
        threading.Thread(target=self._look_on, args=watching, name="pass watch", daemon=True).start()
        faulthandler.dump_traceback_later(self._ceiling + _LOCKED_SECONDS, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            ended.set()

    def _look_on(self, ended: threading.Event, thread: int, attempts: Sequence[AttemptId]) -> None:
        ticks = 0
        while not ended.wait(_TICK_SECONDS):
            ticks += 1
            if ticks * _TICK_SECONDS >= _LATE_SHARE * self._seconds:
                self._late_one_ended = ended
            if ticks * _TICK_SECONDS >= self._seconds:
                #: A pass of the device hangs: it took these `seconds`. The worker writes the stack and the jobs of that
                #: pass, gives its jobs back and ends with status 1.
                _log.critical("device_stuck", seconds=self._seconds, **_evidence(thread, attempts))
                self._give_up(attempts)
                return
            if resident_bytes() > self._memory_bytes:
                #: A pass of the device brought the worker above `MEMORY_BYTES`. The worker writes the stack and the
                #: jobs of that pass, gives its jobs back and ends with status 1.
                _log.critical("device_takes_all_memory", memory_bytes=self._memory_bytes, **_evidence(thread, attempts))
                self._give_up(attempts)
                return


def _evidence(thread: int, attempts: Sequence[AttemptId]) -> dict[str, Any]:
    """Whose images are in the pass, and where its thread is."""
    stack = "".join(traceback.format_stack(sys._current_frames().get(thread)))  # noqa: SLF001  # the documented way
    return {"jobs": [str(attempt.job_id) for attempt in attempts], "stack": stack}


def pass_limit(expected: float, ceiling: float) -> float:
    """Return the seconds after which a pass hangs that takes `expected` seconds as a rule; at most `ceiling`.

    Raises:
        PassTooSlowError: sound passes would be ended, and with them the process.

    """
    if ceiling < _LEAST_PATIENCE * expected:
        raise PassTooSlowError(
            f"A pass takes {expected:.3g} s on this device, and DISTILDIRE_PASS_SECONDS allows {ceiling:g}. "
            f"Set it to {math.ceil(_PATIENCE * expected)}, or use a faster device or a smaller model."
        )
    return min(ceiling, max(_FLOOR_SECONDS, _PATIENCE * expected))


def memory_limit(cgroup: Path = _CGROUP) -> int:
    """Return the bytes that this process may use by itself: most of its container's memory, or else the machine's."""
    there_is = os.sysconf("SC_PHYS_PAGES") * resource.getpagesize()
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of either version of control groups
        try:
            limit = (cgroup / name).read_text().strip()
        except OSError:
            continue
        if limit != "max":
            there_is = min(there_is, int(limit))
    return int(_SHARE_OF_MEMORY * there_is)


def resident_bytes() -> int:
    """Return how much memory this process uses now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()
