"""The worker's ends of the sandbox's processes: the fork server and one child of it."""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from shared.errors import DistildireError, ErrorCode, JobError
from worker import sandbox_wire as wire
from worker.sandbox_child import COMMAND, FORK, KILL, OUT_OF_MEMORY, READY, STATUS, ChildLimits

_START_SECONDS = 30.0
_STOP_SECONDS = 5.0
_STATUS_SECONDS = 5.0  # from a child's last byte to the server's word on how it ended
#: So many children compute at once. A crowd of large images would else share the processors until each has run out of
#: time; with one turn for each processor, as few files that loop would hold up all others.
_TURNS = 2 * len(os.sched_getaffinity(0))
_MAX_MESSAGE = 300  # characters of a child's error message
#: What a decoder has to say of a file. Any other code would blame the service for what the file does.
_DECODER_CODES = frozenset(
    {
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.CORRUPT_IMAGE,
        ErrorCode.IMAGE_TOO_LARGE,
        ErrorCode.DECOMPRESSION_BOMB,
        ErrorCode.OUT_OF_MEMORY,
    }
)
#: What the server needs of the worker's environment; the rest holds passwords.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "PATH")


class SandboxError(DistildireError):
    """The process that decodes images could not be started. Look at its messages on standard error."""


class ServerDiedError(Exception):
    """The fork server went, and with it the child."""


class UntrueAnswerError(JobError):
    """A child's answer cannot be what its code would send: the file may have taken it over."""


class Child:
    """The worker's end of one child process."""

    def __init__(self, server: Server, wall_seconds: float) -> None:
        self._server = server
        self._wall_seconds = wall_seconds
        self._job, self._socket, self._status_fd = server.fork()

    def ask(self, request: dict[str, Any], *payloads: bytes, max_payload: int) -> tuple[dict[str, Any], bytearray]:
        """Send a request and wait for its answer, when it is this child's turn. Raises JobError, or ServerDiedError."""
        with self._server.turns:
            return self._exchange(request, *payloads, max_payload=max_payload)

    def _exchange(
        self, request: dict[str, Any], *payloads: bytes, max_payload: int
    ) -> tuple[dict[str, Any], bytearray]:
        allowance = wire.Allowance(self._wall_seconds)
        try:
            wire.send(self._socket, request, *payloads, within=allowance)
            reply, payload = wire.receive(self._socket, max_payload, allowance)
        except TimeoutError as error:
            raise _crashed(f"did not finish within {self._wall_seconds:g} seconds") from error
        except (EOFError, OSError) as error:
            raise self._why_it_ended() from error
        except wire.WireError as error:
            raise untrue_answer() from error
        if "error" in reply:
            raise _reported(reply["error"])
        return reply, payload

    def _why_it_ended(self) -> Exception:
        poll = select.poll()  # select.select knows no descriptor above 1023
        poll.register(self._status_fd, select.POLLIN)
        if not poll.poll(_STATUS_SECONDS * 1000):
            return _crashed("hung up and went on")
        status = os.read(self._status_fd, STATUS.size)
        if not status:
            return ServerDiedError()
        code = os.waitstatus_to_exitcode(*STATUS.unpack(status))
        if code == OUT_OF_MEMORY:
            return JobError(ErrorCode.OUT_OF_MEMORY)
        if code == -signal.SIGXCPU:
            return _crashed("used more processor time than it may")
        if code < 0:
            return _crashed(f"was ended by {_signal_name(-code)}")
        return JobError(ErrorCode.INTERNAL)

    def close(self) -> None:
        """Have the child killed, if it still runs. May be called again."""
        if self._socket.fileno() >= 0:
            self._server.kill(self._job)
            self._socket.close()
            os.close(self._status_fd)


class Server:
    """The worker's end of the fork server."""

    def __init__(self, entry: tuple[str, ...], limits: ChildLimits) -> None:
        self.turns = threading.BoundedSemaphore(_TURNS)
        """Held while a child computes; its wall time does not run before."""
        self._jobs = itertools.count()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                # A crash in a decoder prints where it was.
                [sys.executable, "-X", "faulthandler", *entry, str(theirs.fileno()), limits.to_json()],
                env=_environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the worker, which still has jobs to finish
            )
        self._control.settimeout(_START_SECONDS)
        try:
            ready = self._control.recv(len(READY)) == READY
        except OSError:
            ready = False
        if not ready:
            self.stop()
            raise SandboxError

    def fork(self) -> tuple[int, socket.socket, int]:
        """A new child: its job number, the socket to talk to it, the pipe that will tell how it ended."""
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
        """End the child of `job`, if it still runs."""
        try:
            self._control.send(COMMAND.pack(KILL, job))
        except OSError:
            return  # the server went, and its children with it

    def stop(self) -> None:
        """End the server and every child."""
        self._control.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _signal_name(number: int) -> str:
    """Return its name; not all have one, and a file that has taken a decoder over may choose."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return kept | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}  # a process with threads must not fork


def _reported(error: Any) -> JobError:
    """The error that a child tells of; it may have been told what to say."""
    match error:
        case {"code": str(code), "message": str(message)} if code in _DECODER_CODES:
            return JobError(ErrorCode(code), "".join(filter(str.isprintable, message))[:_MAX_MESSAGE])
    return untrue_answer()


def untrue_answer() -> UntrueAnswerError:
    """Return the error for a child whose answer cannot be what its code would send."""
    return UntrueAnswerError(ErrorCode.DECODE_CRASHED, _crash_message("gave an answer that cannot be true"))


def _crashed(how: str) -> JobError:
    return JobError(ErrorCode.DECODE_CRASHED, _crash_message(how))


def _crash_message(how: str) -> str:
    return f"The decoder {how} on this file. Re-encode the image."
