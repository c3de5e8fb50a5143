"""The fork server and its disposable children, which decode and draw untrusted images.

worker.sandbox.sandbox runs it as `python -m worker.sandbox.child FD LIMITS`. The server has one thread and imports only
numpy and Pillow, so forking a child takes a few milliseconds. A child serves one job: it decodes the image, keeps the
pixels until the model has answered, draws the pictures and ends. It can open no file, and neither reach nor start
another process. It dies with the server, and the server ends with the worker.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Never

import numpy as np

from shared.errors import JobError
from shared.images.visualizations import Floats, draw_pictures
from worker.imaging.content import drawn_mean
from worker.imaging.decoding import DecodedImage, ImageLimits, decode, preprocess
from worker.imaging.perturbations import PERTURBATIONS
from worker.sandbox.protocol import receive, send
from worker.sandbox.seccomp import install_filter

#: A command to the server: FORK, with the job's socket and status pipe, or KILL; and the job's number.
COMMAND = struct.Struct("!cQ")
FORK, KILL = b"f", b"k"
#: What the server writes to a job's status pipe: the child's process id, and its wait status once it has ended.
STATUS = struct.Struct("!i")
READY = b"ready"

#: The exit status of a child that had too little memory even to report it.
OUT_OF_MEMORY = 80  # beyond those of <sysexits.h>

_COULD_NOT_FORK = os.EX_OSERR << 8  # as a wait status
_NO_CHILD = 0
_OOM_SCORE, _FIRST_VICTIM = "/proc/self/oom_score_adj", b"1000"
_JOB_FD = 3  # the first after the standard streams
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class ChildLimits:
    """What one child may use."""

    image: ImageLimits
    memory_bytes: int  # of address space, beyond what the server has mapped
    cpu_seconds: int

    def to_json(self) -> str:
        """Return the limits as text, for the command line."""
        return json.dumps(self, default=vars)

    @classmethod
    def from_json(cls, text: str) -> ChildLimits:
        """Return the limits that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**fields | {"image": ImageLimits(**fields["image"])})


class ForkServer:
    """Forks a child for each job, kills children on request, and reports how each ended."""

    def __init__(self, control: socket.socket, limits: ChildLimits) -> None:
        self._control = control
        self._limits = limits
        self._pid = os.getpid()
        self._address_space = _mapped_bytes() + limits.memory_bytes
        self._children: dict[int, tuple[int, int]] = {}  # pid: (job, status pipe)

    def serve(self) -> None:
        """Run until the worker closes the control socket; the worker's death closes it too."""
        child_ended, wake = socket.socketpair()
        wake.settimeout(0)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler, nothing is written to the file descriptor
        gc.freeze()  # children share these objects' pages; a collection would copy them
        self._control.send(READY)
        poll = select.poll()  # select.select knows no descriptor above 1023, and the worker may have many open
        poll.register(self._control, select.POLLIN)
        poll.register(child_ended, select.POLLIN)
        while True:
            readable = {fd for fd, _ in poll.poll()}
            if child_ended.fileno() in readable:
                child_ended.recv(4096)
                self._reap()
            if self._control.fileno() in readable and not self._serve_command():
                break
        signal.set_wakeup_fd(-1)  # the interpreter's shutdown closes its socket, and children end as this process does

    def _serve_command(self) -> bool:
        """Execute one command; return False when no more can come."""
        message, fds, _, _ = socket.recv_fds(self._control, COMMAND.size, 2)
        if not message:
            return False
        command, job = COMMAND.unpack(message)
        if command == FORK:
            self._fork(job, *fds)
        else:
            self._kill(job)
        return True

    def _fork(self, job: int, job_fd: int, status_fd: int) -> None:
        try:
            pid = os.fork()
        except OSError:
            _tell(status_fd, _NO_CHILD)
            _report(status_fd, _COULD_NOT_FORK)
        else:
            if pid == 0:
                self._be_child(job_fd)
            self._children[pid] = job, status_fd
            _tell(status_fd, pid)
        os.close(job_fd)

    def _kill(self, job: int) -> None:
        """Kill the job's child. A reaped child is no longer listed, so its process id cannot hit another process."""
        for pid, (running, _) in self._children.items():
            if running == job:
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            _, status_fd = self._children.pop(pid)
            _report(status_fd, status)

    def _be_child(self, job_fd: int) -> Never:
        """Drop all rights that the job does not need, do the job, and exit."""
        status = os.EX_SOFTWARE
        try:
            self._confine(job_fd)
            do_job(socket.socket(fileno=_JOB_FD), self._limits.image)
            status = os.EX_OK
        except MemoryError:  # this branch must allocate nothing
            status = OUT_OF_MEMORY
        except BaseException:  # noqa: BLE001  # no error may let the child run on into the server's loop
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _confine(self, job_fd: int) -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._pid:  # the server died before the line above
            os._exit(os.EX_SOFTWARE)
        with suppress(OSError):  # a kernel that runs out of memory should kill this process, not the worker
            os.write(os.open(_OOM_SCORE, os.O_WRONLY), _FIRST_VICTIM)  # closed below, with all others
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(job_fd, _JOB_FD)
        os.closerange(_JOB_FD + 1, os.sysconf("SC_OPEN_MAX"))
        cpu = self._limits.cpu_seconds
        for limit, soft, hard in (
            (resource.RLIMIT_AS, self._address_space, self._address_space),
            (resource.RLIMIT_CPU, cpu, cpu + 1),  # first SIGXCPU, which shows the reason; then SIGKILL
            (resource.RLIMIT_CORE, 0, 0),
            (resource.RLIMIT_FSIZE, 0, 0),
            (resource.RLIMIT_NOFILE, _JOB_FD + 1, _JOB_FD + 1),  # all of them are in use
        ):
            resource.setrlimit(limit, (soft, hard))
        install_filter()


def do_job(sock: socket.socket, limits: ImageLimits) -> None:
    """Decode one image; then, if the worker asks for them, draw its pictures."""
    try:
        _draw(sock, _decode(sock, limits))
    except JobError as error:
        send(sock, {"error": {"code": error.code, "message": error.message}})
    except (EOFError, BrokenPipeError):
        return  # the worker has ended this job


def _decode(sock: socket.socket, limits: ImageLimits) -> DecodedImage:
    request, data = receive(sock, limits.max_bytes)
    size: int = request["size"]
    decoded = decode(bytes(data), limits)
    asked = PERTURBATIONS if request["probe"] else ()
    squares = [preprocess(decoded.image, size), *(preprocess(change(decoded.image), size) for change in asked)]
    send(sock, asdict(decoded.facts), *(x.tobytes() for x in squares))
    return decoded


def _draw(sock: socket.socket, decoded: DecodedImage) -> None:
    request, payload = receive(sock, sys.maxsize)
    eps, mean = _arrays(payload, request["shapes"])
    pictures = draw_pictures(request["wanted"], decoded.image, eps, drawn_mean(mean, decoded.facts.content))
    send(sock, {"lengths": {name: len(file) for name, file in pictures.items()}}, *pictures.values())


def _arrays(payload: bytearray, shapes: list[list[int]]) -> list[Floats]:
    """Return the float32 arrays that `payload` holds one after the other."""
    numbers = np.frombuffer(payload, np.float32)
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(numbers, ends[:-1]), shapes, strict=True)]


def _report(status_fd: int, status: int) -> None:
    _tell(status_fd, status)
    os.close(status_fd)


def _tell(status_fd: int, number: int) -> None:
    with suppress(BrokenPipeError):  # the worker has ended this job
        os.write(status_fd, STATUS.pack(number))


def _mapped_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def main(arguments: list[str]) -> None:
    """Serve on the inherited socket whose descriptor is the first argument, with the limits of the second."""
    control = socket.socket(fileno=int(arguments[0]))
    ForkServer(control, ChildLimits.from_json(arguments[1])).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
