"""Owns a stack for its life: starts it, tells when a process ends, starts what is missing when asked, stops it.

A foreground `distildire up` is a supervisor itself; with `--detach` one runs in the background. All processes of
the stack are its children and end with it, even if it is killed (`launcher.py`), so there are never orphans to take
over: at most, for seconds, some that are ending, which the next `up` or `down` ends by their recorded identity.

Other commands talk to it by signals and files in the data directory. SIGTERM (or Ctrl-C): stop all. SIGUSR1: start
what is missing, then write into `supervisor.json` that the request named in the file `request` was served. The
environment of the processes is the supervisor's, that is of the `up` that started the stack.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from deploy.local.process_identity import ProcessIdentity, identity_of
from deploy.local.process_registry import DataDirInUseError
from deploy.local.stack import Report, Stack
from deploy.local.state_files import read_if_whole, write_private
from shared.environment import hide_from_libraries
from shared.errors import DistildireError

_STATE, _REQUEST = "supervisor.json", "request"


@dataclass
class SupervisorState:
    """What `supervisor.json` says."""

    pid: int
    started: str
    phase: Literal["starting", "ready", "failed", "stopping"] = "starting"
    request: str = ""  # the last one that was begun
    message: str = ""  # why it failed
    steps: dict[str, str] = field(default_factory=dict)  # how each part stands

    @property
    def identity(self) -> ProcessIdentity:
        """The supervisor's process."""
        return ProcessIdentity(self.pid, self.started)


def read_state(data_dir: Path) -> SupervisorState | None:
    """Return what the supervisor of `data_dir`, living or not, said last; None where there is nothing to be read."""
    return read_if_whole(data_dir / _STATE, _state)


def _state(content: Any) -> SupervisorState:
    identity_of(content)
    state = SupervisorState(**content)
    if not isinstance(state.steps, dict):
        raise TypeError
    return state


def write_request(data_dir: Path, request: str) -> None:
    """Name the request that the next SIGUSR1 makes."""
    write_private(data_dir / _REQUEST, request)


class StopRequested(BaseException):
    """SIGTERM, SIGINT or SIGHUP came."""


class Supervisor:
    """One stack's owner. It runs in the main thread."""

    def __init__(self, data_dir: Path, port: int | None, report: Report) -> None:
        identity = ProcessIdentity.of(os.getpid())
        if identity is None:
            raise RuntimeError("this process is not listed in /proc")
        self._data_dir = data_dir.resolve()
        self._report = report
        self._state = SupervisorState(identity.pid, identity.started)
        self._stack = Stack(self._data_dir, port, self._note)
        self._asked = False
        self._signals, self._signal_writer = socket.socketpair()

    def run(self, request: str, ready: Report) -> None:
        """Start the stack, call `ready`, and keep it until told to stop.

        Raises:
            DataDirInUseError: the stack has another owner; it was left alone.
            DistildireError: the stack did not come up; all of it was stopped.
        """
        self._state.request = request
        self._listen()
        try:
            self._stack.claim()
            self._serve(request)
            ready("stack", "ready")
            while True:
                self._signals.recv(64)  # woken by any signal, a child's end among them
                for child in self._stack.ended():
                    self._report(child.program.name, f"{child.exit_report()}\n`distildire up` starts it again.")
                if self._asked:
                    self._asked = False
                    self._serve_again()
        except StopRequested:
            self._enter("stopping")
            self._report("stack", "stopping")
        except DataDirInUseError:
            raise  # what its owner has written stays
        except DistildireError as error:
            self._enter("failed", error.message)
            raise
        except Exception as error:
            self._enter("failed", f"{type(error).__name__}: {error}\n{self._data_dir}/logs/supervisor.log has more.")
            raise
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave the stopping half done
            self._stack.stop()

    def _serve(self, request: str) -> None:
        self._state.request = request
        self._enter("starting")
        self._stack.ensure()
        self._enter("ready")

    def _serve_again(self) -> None:
        self._state.steps = {}
        try:
            self._serve((self._data_dir / _REQUEST).read_text(errors="replace"))
        except DistildireError as error:  # what runs goes on running
            self._enter("failed", error.message)
            self._report("stack", error.message)

    def _listen(self) -> None:
        self._signal_writer.setblocking(False)  # noqa: FBT003  # the standard library's signature
        signal.set_wakeup_fd(self._signal_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, _request_stop)
        signal.signal(signal.SIGINT, _request_stop)
        signal.signal(signal.SIGHUP, _request_stop)  # the terminal was closed
        signal.signal(signal.SIGUSR1, self._ask)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True

    def _note(self, part: str, status: str) -> None:
        self._state.steps[part] = status
        self._write()
        self._report(part, status)

    def _enter(self, phase: Literal["starting", "ready", "failed", "stopping"], message: str = "") -> None:
        self._state.phase, self._state.message = phase, message
        self._write()

    def _write(self) -> None:
        with suppress(OSError):  # a full disk must not end what still runs; who waits for this looks at the process too
            write_private(self._data_dir / _STATE, json.dumps(asdict(self._state), indent=2) + "\n")


def _request_stop(_number: int, _frame: FrameType | None) -> None:
    raise StopRequested


def main(data_dir: str, port: str, request: str) -> int:
    """Run in the background; what happens goes to the log that standard error is."""

    def log(part: str, status: str) -> None:
        with suppress(OSError):  # the log may lie on a full disk
            sys.stderr.write(f"{part}: {status}\n")
            sys.stderr.flush()

    hide_from_libraries()
    try:
        Supervisor(Path(data_dir), int(port) or None, log).run(request, log)
    except DistildireError as error:
        log("stack", error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
