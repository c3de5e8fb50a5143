"""One child process of the stack: started to end with its parent, watched, stopped in peace, its log at hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.process_identity import ProcessIdentity
from shared.environment import plain
from shared.errors import DistildireError

_LAUNCHER = Path(__file__).with_name("launcher.py")
_TAIL_LINES = 15
_POLL_SECONDS = 0.05


class StackError(DistildireError):
    """The stack on this machine could not do what was asked."""


class ProcessEndedError(StackError):
    """A process of the stack ended before it was asked to."""


@dataclass(frozen=True)
class Program:
    """What to run, and how it wants to be stopped."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)  # beside the variables that any program may see
    prefix: Sequence[str] = ()  # what drops privileges; it must end by becoming the command (no fork)
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGTERM  # what the kernel sends if the parent is killed
    stop_seconds: float = 20


class ChildProcess:
    """A running `Program`.

    Start it from a thread that lives as long as the child should, that is from the main thread: the kernel's
    signal on the parent's death is tied to the thread.
    """

    def __init__(self, program: Program) -> None:
        """Start it, in its own session (a Ctrl-C at the terminal is for the parent), its output into the log."""
        self.program = program
        self._asked_to_stop = False
        program.log.parent.mkdir(parents=True, exist_ok=True)
        launch = [sys.executable, "-I", "-S", str(_LAUNCHER), str(int(program.death_signal)), str(os.getpid())]
        with program.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*program.prefix, *launch, *program.command],
                env={**plain(os.environ), **program.environment},
                cwd="/",  # no modules lie there, and no folder is kept busy that its owner may want to remove
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        identity = ProcessIdentity.of(self._process.pid)
        self.identity = identity or ProcessIdentity(self._process.pid, "ended at once")

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def wait_until(self, is_ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `is_ready()`.

        Raises:
            ProcessEndedError: the process ended first; the message has the last lines of its log.
            StackError: `seconds` passed first.
        """
        deadline = time.monotonic() + seconds
        while not is_ready():
            if not self.running:
                raise ProcessEndedError(self.exit_report())
            if time.monotonic() > deadline:
                raise StackError(f"{self.program.name} did not answer within {seconds:.0f} s.\n{self._log_tail()}")
            time.sleep(_POLL_SECONDS)

    def request_stop(self) -> None:
        """Ask it to end, once, and do not wait: to some programs a second signal means to hurry."""
        if self.running and not self._asked_to_stop:
            self._asked_to_stop = True
            self._process.send_signal(self.program.stop_signal)

    def stop(self) -> None:
        """Ask it to end, wait, and kill it if it does not; harmless when it has ended already."""
        if self.running:
            self.request_stop()
            try:
                self._process.wait(self.program.stop_seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()

    def wait(self) -> int:
        """Wait until it has ended; return its exit code, or the number of the signal that ended it, negated."""
        return self._process.wait()

    def exit_report(self) -> str:
        """How the process ended, with the last lines of its log."""
        code = self.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{self.program.name} {how}.\n{self._log_tail()}"

    def _log_tail(self) -> str:
        """The last lines that this process wrote (not those of an earlier one in the same file)."""
        with self.program.log.open(encoding="utf-8", errors="replace") as log:
            log.seek(self._log_start)
            lines = deque(log, maxlen=_TAIL_LINES)
        return "".join([f"Last lines of {self.program.log}:\n", *(f"  {line}" for line in lines)]).rstrip()
