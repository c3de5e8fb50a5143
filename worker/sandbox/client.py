"""The worker's side of the sandbox: the fork server, and each child that it forks."""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from shared.errors import DistildireError, ErrorCode, JobError
from worker.process.resources import usable_cores
from worker.sandbox import protocol as wire
from worker.sandbox.child import COMMAND, FORK, KILL, OUT_OF_MEMORY, READY, STATUS, ChildLimits

_START_SECONDS = 30.0
_STOP_SECONDS = 5.0
_STATUS_SECONDS = 5.0  # from a child's last byte until the server reports how it ended
#: How many children compute at once. Without a limit, many large images would share the processors until each ran out
#: of time. With only one turn for each processor, a few files that loop would hold up all others.
_TURNS = 2 * usable_cores()
_MAX_MESSAGE = 300  # characters kept of a child's error message, or of a line that it prints
_LINES_A_MINUTE, _LAST_LINES, _MOST_AT_ONCE = 50, 8, 1 << 14
#: The errors that a decoder may report about a file. Any other code would blame the service for what the file does.
_DECODER_CODES = frozenset(
    {
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.CORRUPT_IMAGE,
        ErrorCode.IMAGE_TOO_LARGE,
        ErrorCode.DECOMPRESSION_BOMB,
        ErrorCode.OUT_OF_MEMORY,
    }
)
#: The variables of the worker's environment that the server needs; others hold passwords.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "PATH")
#: One thread, since a process with several must not fork. The MALLOC settings, which only glibc reads, let a child keep
#: freed memory until it ends: returning each array to the kernel, and getting zeroed pages for the next, took a third
#: of its time.
_SET_VARIABLES = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(4 << 20),
}


class SandboxError(DistildireError):
    """The process that decodes images could not be started."""


class ForkServerDiedError(Exception):
    """The fork server died, and the child with it."""


class UntrueAnswerError(JobError):
    """A child's answer cannot be what its code would send: the file may have taken it over."""


class Child:
    """The worker's end of one child process."""

    def __init__(self, server: ForkServerClient, idle_seconds: float) -> None:
        self._server = server
        self._idle_seconds = idle_seconds
        self._job, self._socket, self._status_fd = server.fork()
        self._pid: int | None = None
        self._worked: dict[str, float] = {}

    def ask(self, request: dict[str, Any], *payloads: bytes, max_payload: int) -> tuple[dict[str, Any], bytearray]:
        """Wait for this child's turn, send a request, and return the header and the payload of the answer.

        Raises:
            JobError: the file is at fault, or the child crashed, exceeded a limit or sent an impossible answer.
            ForkServerDiedError: the child died with the server, through no fault of the file.

        """
        with self._server.turns:
            return self._exchange(request, *payloads, max_payload=max_payload)

    def _exchange(
        self, request: dict[str, Any], *payloads: bytes, max_payload: int
    ) -> tuple[dict[str, Any], bytearray]:
        allowance = wire.Allowance(self._idle_seconds, self._busy)
        try:
            wire.send(self._socket, request, *payloads, within=allowance)
            reply, payload = wire.receive(self._socket, max_payload, allowance)
        except TimeoutError as error:
            raise _crashed(f"did nothing for {self._idle_seconds:g} seconds") from error
        except (EOFError, OSError) as error:
            raise self._why_it_ended() from error
        except wire.WireError as error:
            raise untrue_answer() from error
        if "error" in reply:
            raise _reported(reply["error"])
        return reply, payload

    def _busy(self) -> float:
        """Return how many seconds the busiest thread of the child computed, or waited for a processor, since last time.

        0 where the kernel does not say.
        """
        if self._pid is None:
            self._pid = self._next_status(within=0)
        before, self._worked = self._worked, _work_of(self._pid) if self._pid else {}
        return max((seconds - before.get(thread, 0.0) for thread, seconds in self._worked.items()), default=0.0)

    def _next_status(self, within: float) -> int | None:
        """Return what the server reports next about this child; None if it reports nothing within so many seconds.

        Raises:
            ForkServerDiedError: the server can report nothing more.

        """
        poll = select.poll()  # select.select knows no descriptor above 1023
        poll.register(self._status_fd, select.POLLIN)
        if not poll.poll(within * 1000):
            return None
        number = os.read(self._status_fd, STATUS.size)
        if not number:
            raise ForkServerDiedError
        return int(STATUS.unpack(number)[0])

    def _why_it_ended(self) -> Exception:
        try:
            if self._pid is None:
                self._pid = self._next_status(_STATUS_SECONDS)
            status = self._next_status(_STATUS_SECONDS)
        except ForkServerDiedError as error:
            return error
        if status is None:
            return _crashed("closed its connection but did not end")
        code = os.waitstatus_to_exitcode(status)
        if code == OUT_OF_MEMORY:
            return JobError(ErrorCode.OUT_OF_MEMORY)
        if code == -signal.SIGXCPU:
            return _crashed("used too much processor time")
        if code < 0:
            return _crashed(f"was ended by {_signal_name(-code)}")
        return JobError(ErrorCode.INTERNAL)

    def close(self) -> None:
        """Kill the child if it still runs. May be called again."""
        if self._socket.fileno() >= 0:
            self._server.kill(self._job)
            self._socket.close()
            os.close(self._status_fd)


#: Is called with lines that were printed, and how many others were dropped before them.
OnLines = Callable[[Sequence[str], int], None]


class Listener(threading.Thread):
    """Reads everything that the fork server and its children print, so that none blocks, and passes on a part of it."""

    def __init__(self, pipe: IO[bytes], on_lines: OnLines) -> None:
        super().__init__(name="decoders' words", daemon=True)
        self.last: deque[str] = deque(maxlen=_LAST_LINES)
        """The lines that were passed on last."""
        self._pipe = pipe
        self._on_lines = on_lines
        self._minute = 0
        self._passed_on = 0
        self._dropped = 0

    def run(self) -> None:
        """Read until nobody can write any more."""
        with self._pipe:
            while written := os.read(self._pipe.fileno(), _MOST_AT_ONCE):
                self._pass_on(written.splitlines())

    def _pass_on(self, lines: list[bytes]) -> None:
        if (minute := int(time.monotonic() // 60)) != self._minute:
            self._minute, self._passed_on = minute, 0
        passed_on = [_printable(line) for line in lines[: max(0, _LINES_A_MINUTE - self._passed_on)]]
        self._passed_on += len(passed_on)
        if passed_on:
            self.last.extend(passed_on)
            self._on_lines(passed_on, self._dropped)
            self._dropped = 0
        self._dropped += len(lines) - len(passed_on)


def _printable(line: bytes) -> str:
    """Return the line's beginning, with escapes for all that a terminal or a log would act on."""
    text = line[:_MAX_MESSAGE].decode(errors="backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


class ForkServerClient:
    """The worker's end of the fork server."""

    def __init__(
        self, entry: tuple[str, ...], limits: ChildLimits, on_lines: OnLines = lambda _lines, _dropped: None
    ) -> None:
        """Start it. `on_lines` gets what it and its children print, on a thread of its own.

        Raises:
            SandboxError: it does not start.

        """
        self.turns = threading.BoundedSemaphore(_TURNS)
        """A child computes only while it holds one; until then its time does not count."""
        self._jobs = itertools.count()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                # With faulthandler, a decoder that crashes prints its stack.
                [sys.executable, "-P", "-X", "faulthandler", *entry, str(theirs.fileno()), limits.to_json()],
                env=_environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # the worker's own standard error is its log
                start_new_session=True,  # Ctrl-C must not reach it: the worker still has jobs to finish
            )
        self._listener = Listener(cast("IO[bytes]", self._process.stderr), on_lines)
        self._listener.start()
        self._control.settimeout(_START_SECONDS)
        try:
            ready = self._control.recv(len(READY)) == READY
        except OSError:
            ready = False
        if not ready:
            self.stop()
            raise SandboxError(
                "\n  ".join(["The process that decodes images could not be started.", *self._listener.last])
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def fork(self) -> tuple[int, socket.socket, int]:
        """Fork a child; return its job number, the socket to talk to it, and the pipe that reports how it ended."""
        job = next(self._jobs)
        ours, theirs = socket.socketpair()
        status_fd, report_fd = os.pipe()
        try:
            socket.send_fds(self._control, [COMMAND.pack(FORK, job)], [theirs.fileno(), report_fd])
        except OSError:
            ours.close()
            os.close(status_fd)
            raise
        finally:
            theirs.close()
            os.close(report_fd)
        return job, ours, status_fd

    def kill(self, job: int) -> None:
        """Kill the child of `job` if it still runs."""
        try:
            self._control.send(COMMAND.pack(KILL, job))
        except OSError:
            return  # the server died, and its children with it

    def stop(self) -> None:
        """End the server and every child."""
        self._control.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(_STOP_SECONDS)


def _work_of(pid: int) -> dict[str, float]:
    """Return the seconds that each thread of a process has computed, or waited for a processor, since it began."""
    found = {}
    with suppress(OSError, ValueError):  # the process has ended, or the kernel does not count this
        for thread in Path(f"/proc/{pid}/task").iterdir():
            computed, waited, _ = map(int, (thread / "schedstat").read_text().split())
            found[thread.name] = (computed + waited) / 1e9
    return found


def _signal_name(number: int) -> str:
    """Return the signal's name. Not every number has one, and a file that took a decoder over may choose any."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    path = os.pathsep.join(filter(None, sys.path))  # an empty entry is the working directory
    return kept | {"PYTHONPATH": path} | _SET_VARIABLES


def _reported(error: Any) -> JobError:
    """Return the error that a child reports; a file that took it over may have written the report."""
    match error:
        case {"code": str(code), "message": str(message)} if code in _DECODER_CODES:
            return JobError(ErrorCode(code), "".join(filter(str.isprintable, message))[:_MAX_MESSAGE])
    return untrue_answer()


def untrue_answer() -> UntrueAnswerError:
    """Return the error for a child whose answer cannot be what its code would send."""
    return UntrueAnswerError(ErrorCode.DECODE_CRASHED, _crash_message("sent an impossible answer"))


def _crashed(how: str) -> JobError:
    return JobError(ErrorCode.DECODE_CRASHED, _crash_message(how))


def _crash_message(how: str) -> str:
    return f"The decoder {how} on this file. Re-encode the image."
