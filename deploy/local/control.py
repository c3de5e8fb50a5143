"""`up` and `down` as the user calls them: one command at a time, whichever process owns the stack."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.process_registry import DataDirInUseError, FileLock, ProcessRegistry
from deploy.local.processes import StackError
from deploy.local.stack import Report
from deploy.local.stack_file import STACK_FILE, StackDocument
from deploy.local.supervisor import Supervisor, SupervisorState, read_state, write_request
from shared.environment import with_settings

_POLL_SECONDS = 0.1
_OWNER_SECONDS = 5  # from taking the data directory to saying who took it
_STOP_SECONDS = 150  # the sum of what the parts may take


def up(data_dir: Path, port: int | None, report: Report, *, detach: bool, ready: Callable[[bool], None]) -> bool:
    """Bring the stack of `data_dir` up, or what of it is missing.

    `ready(owned)` is called once it is up. Without `detach` this process then owns a stack that had no owner, and
    returns when told to stop (Ctrl-C, SIGTERM, or `down`); a stack that another process owns stays with that one.
    Returns whether this process owned, and has stopped, the stack.

    Raises:
        DistildireError: it did not come up.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    command_lock = FileLock(data_dir / "command.lock")
    with command_lock:
        request = secrets.token_hex(8)
        owner = _owner(data_dir)
        if owner is not None:
            _refuse_other_port(data_dir, port)
            write_request(data_dir, request)
            os.kill(owner.pid, signal.SIGUSR1)
            _follow(data_dir, request, lambda: owner.identity.alive, report)
            ready(False)  # noqa: FBT003  # the callback's only argument
        elif detach:
            _start_supervisor(data_dir, port, request, report)
            ready(False)  # noqa: FBT003
        else:

            def release_when_ready(_part: str, _status: str) -> None:
                command_lock.release()  # from here on others may ask for `up` and `down`
                ready(True)  # noqa: FBT003

            Supervisor(data_dir, port, report).run(request, release_when_ready)
            return True
    return False


def down(data_dir: Path) -> list[str]:
    """Stop the stack of `data_dir` and return what of it ran: `["stack"]`, names of leftovers, or nothing.

    Only processes that this data directory's stack has started are ended: pid and start time must agree.
    """
    if not data_dir.is_dir():
        return []
    with FileLock(data_dir / "command.lock"):
        owner = _owner(data_dir)
        if owner is not None:
            owner.identity.end(signal.SIGTERM, _STOP_SECONDS)
        with FileLock(data_dir / "owner.lock"):
            leftovers = ProcessRegistry(data_dir).end_leftovers()
        (data_dir / STACK_FILE).unlink(missing_ok=True)
    return ["stack"] if owner is not None else leftovers


def _owner(data_dir: Path) -> SupervisorState | None:
    """The living supervisor of `data_dir`, or None if nobody owns it.

    Raises:
        DataDirInUseError: something owns it that is no supervisor.
    """
    lock = FileLock(data_dir / "owner.lock")
    deadline = time.monotonic() + _OWNER_SECONDS
    while True:
        try:
            lock.acquire()
        except DataDirInUseError:
            state = read_state(data_dir)
            if state is not None and state.identity.alive:
                return state
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
        else:
            lock.release()
            return None


def _refuse_other_port(data_dir: Path, port: int | None) -> None:
    document = StackDocument.read(data_dir)
    if document is not None and port is not None and urlsplit(document.api_url).port != port:
        raise StackError(f"The API already runs at {document.api_url}. Run `distildire down` first to move it.")


def _start_supervisor(data_dir: Path, port: int | None, request: str, report: Report) -> None:
    """Start a supervisor in the background, with its own session, and follow it until the stack is up."""
    logs = data_dir / "logs"
    logs.mkdir(exist_ok=True)
    command = [sys.executable, "-P", "-m", "deploy.local.supervisor", str(data_dir.resolve()), str(port or 0), request]
    with (logs / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env=with_settings(os.environ),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _follow(data_dir, request, lambda: process.poll() is None, report)
    except StackError:
        process.wait()  # it stops what it has started
        raise


def _follow(data_dir: Path, request: str, alive: Callable[[], bool], report: Report) -> None:
    """Report each step of the supervisor that serves `request` until the stack is up; raise if it fails."""
    reported: dict[str, str] = {}
    while True:
        was_alive = alive()  # looked at first, so that its last words are read below
        state = read_state(data_dir)
        if state is not None and state.request == request:
            for part, status in state.steps.items():
                if reported.get(part) != status:
                    report(part, status)
            reported = state.steps
            if state.phase == "ready":
                return
            if state.phase == "failed":
                raise StackError(state.message)
        if not was_alive:
            raise StackError(f"The process that owns the stack has ended; see {data_dir}/logs/supervisor.log.")
        time.sleep(_POLL_SECONDS)
