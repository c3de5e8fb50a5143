"""The sandbox's fork server with a decoder that does what the file tells it: `<a valid image>|<behaviour>`.

Stands for a decoder that a crafted image has taken over. With `unfiltered` as its first argument it does without the
seccomp filter, as on a kernel that has none: the other limits must hold by themselves. Production code knows nothing of
it; tests start it in the place of `worker.sandbox.child`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from resource import RLIMIT_CORE, RLIMIT_FSIZE, getrlimit

import numpy as np

from shared.errors import ErrorCode, JobError
from worker.imaging import decoding
from worker.imaging.decoding import Caveat
from worker.sandbox import child

_JOB_FD = 3


def behave(data: bytes, limits: decoding.ImageLimits) -> decoding.DecodedImage:
    """Do what follows the image, then decode it."""
    BEHAVIOURS[data.rpartition(b"|")[2].decode()]()
    return decoding.decode(data, limits)


def _read_null() -> None:
    ctypes.string_at(0)


def _err() -> None:
    raise ValueError("a mistake of ours")


def _kill_server() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


def _compute() -> None:
    while time.process_time() < 0.3:  # of this child's life
        pass


def _print() -> None:
    os.write(2, b"one\x1b[31m\n" + b"x" * 3000 + b"\n\xff\n")


def _print_without_end() -> None:
    for _ in range(20_000):
        os.write(2, b"again and again\n")


def _tell_file() -> None:
    try:
        Path("/etc/hostname").read_bytes()
    except OSError as error:
        _tell(f"not opened: {error.strerror}")


def _tell_forbidden() -> None:
    """Try what a taken-over decoder would: to leave the process in any direction."""
    os.close(0)  # so that it is not for want of a number that nothing can be opened
    page = ctypes.create_string_buffer(16)
    region = struct.pack("@PN", ctypes.addressof(page), len(page))
    attempts: dict[str, Callable[[], object]] = {
        "open a file": lambda: Path("/etc/hostname").read_bytes(),
        "look at the worker": lambda: Path("/proc/1/environ").read_bytes(),
        "kill": lambda: os.kill(1, 0),
        "signal its group": lambda: os.killpg(0, signal.SIGCONT),
        "fork": os.fork,
        "run a program": lambda: os.execv("/bin/true", ["true"]),
        "connect": lambda: socket.socket(socket.AF_INET),
        "pair": socket.socketpair,
        "trace": lambda: _called("ptrace", 16, 1, 0, 0),
        "read memory": lambda: _called("process_vm_readv", 1, region, 1, region, 1, 0),
        "change limits": lambda: resource.setrlimit(resource.RLIMIT_CPU, (1, 1)),
        "change another's limits": lambda: resource.prlimit(1, resource.RLIMIT_CPU),
        "type on a terminal": lambda: fcntl.ioctl(2, termios.TIOCSTI, b"x"),
        "ask who is its parent": os.getppid,
    }
    _tell(f"allowed {[name for name, attempt in attempts.items() if not _refused(attempt)]}")


def _called(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def _refused(attempt: Callable[[], object]) -> bool:
    try:
        return attempt() == -1
    except (PermissionError, ValueError):  # the latter is how Python says that setrlimit was refused
        return True


def _start_a_thread() -> None:
    thread = threading.Thread(target=time.sleep, args=(0,))
    thread.start()
    thread.join()


def _spin() -> None:
    while True:
        pass


def _spin_stubbornly() -> None:
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    _spin()


def _hang_up() -> None:
    os.close(_JOB_FD)
    time.sleep(1000)


def _allocate() -> None:
    bytearray(1 << 34)


def _tell(fact: str) -> None:
    raise JobError(ErrorCode.CORRUPT_IMAGE, fact)


def _tell_descriptors() -> None:
    opened = []
    for fd in range(256):
        with contextlib.suppress(OSError):
            os.fstat(fd)
            opened.append(fd)
    _tell(f"descriptors {opened}")


def _answer(*parts: bytes) -> Callable[[], None]:
    """Write an answer of the attacker's own to the worker, then hold still."""

    def act() -> None:
        for part in parts:
            os.write(_JOB_FD, part)
        time.sleep(1000)

    return act


def _message(header: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("!II", len(header), len(payload)) + header + payload


_X = np.zeros((3, 64, 64), np.float32)
_FACTS = (
    b'{"width": 1, "height": 1, "media_type": "image/png", "file_format": "PNG", "jpeg_quality": null, "caveats": [], '
    b'"content": {"side": 1, "entropy": 0.5, "relief": 2.5, "distinct_share": 0.25}}'
)


def _told(part: bytes, instead: bytes) -> Callable[[], None]:
    """Tell of the image what is true, but for one part."""
    return _answer(_message(_FACTS.replace(part, instead), _X.tobytes()))


def _told_of_jpeg(quality: bytes) -> Callable[[], None]:
    """Tell of a JPEG a quality that it cannot have."""
    facts = _FACTS.replace(b"image/png", b"image/jpeg").replace(b"PNG", b"JPEG").replace(b"null", quality)
    return _answer(_message(facts, _X.tobytes()))


def _pictures(lengths: bytes) -> Callable[[], None]:
    """Write a true answer on the image, and one on the heatmap that cannot be."""
    rendered = _message(b'{"lengths": ' + lengths + b"}", b"\x89PNG\r\n\x1a\n")
    return _answer(_message(_FACTS, _X.tobytes()), rendered)


def _no_memory() -> None:
    """Leave no memory for the answer, and none for telling of that."""
    vars(child)["send"] = lambda *_: bytearray(1 << 40)
    raise JobError(ErrorCode.CORRUPT_IMAGE)


BEHAVIOURS: dict[str, Callable[[], None]] = {
    "behave": lambda: None,
    "segfault": _read_null,
    "abort": os.abort,
    "end namelessly": lambda: signal.raise_signal(40),
    "spin": _spin,
    "spin stubbornly": _spin_stubbornly,
    "compute for a while": _compute,
    "print": _print,
    "print without end": _print_without_end,
    "sleep": lambda: time.sleep(1000),
    "nap": lambda: time.sleep(0.5),
    "nap for longer than it may compute": lambda: time.sleep(1.5),
    "hang up": _hang_up,
    "allocate": _allocate,
    "exit": lambda: os._exit(0),
    "bug": _err,
    "kill the server": _kill_server,
    "tell the environment": lambda: _tell(f"variables {sorted(os.environ)}"),
    "tell the descriptors": _tell_descriptors,
    "open a file": _tell_file,
    "try what is forbidden": _tell_forbidden,
    "start a thread": _start_a_thread,
    "tell the limits": lambda: _tell(f"core {getrlimit(RLIMIT_CORE)}, file size {getrlimit(RLIMIT_FSIZE)}"),
    "long message": lambda: _tell("a\n\x1b[31m" + "b" * 3000),
    "noise": _answer(b"\xff" * 64),
    "endless": _answer(struct.pack("!II", 2, 0xFFFFFFFF) + b"{}"),
    "deep": _answer(_message(b"[" * 4000)),
    "no object": _answer(_message(b"[1]")),
    "short x": _answer(_message(_FACTS, _X.tobytes()[:-4])),
    "x is no number": _answer(_message(_FACTS, (_X * np.nan).tobytes())),
    "x is large": _answer(_message(_FACTS, (_X + 3).tobytes())),
    "no facts": _answer(_message(b"{}", _X.tobytes())),
    "a size beyond the limits": _told(b"1,", b"99999,"),
    "a caveat of its own": _told(b"[]", b'["<b>"]'),
    "an unknown code": _answer(_message(b'{"error": {"code": "nonsense", "message": ""}}')),
    "an error of another shape": _answer(_message(b'{"error": [1]}')),
    "an endless size": _told(b'"width": 1', b'"width": Infinity'),
    "a size that is no number": _told(b'"width": 1', b'"width": NaN'),
    "a size in words": _told(b'"width": 1', b'"width": "1"'),
    "a size that is true": _told(b'"width": 1', b'"width": true'),
    "a size of many digits": _told(b"1,", b"9" * 2000 + b","),
    "caveats in a text": _told(b"[]", b'"abc"'),
    "a caveat in a list": _told(b"[]", b"[[]]"),
    "a caveat twice": _told(b"[]", json.dumps([Caveat.CMYK] * 2).encode()),
    "another media type": _told(b"image/png", b"image/gif"),
    "a format of another media type": _told(b"PNG", b"MPO"),
    "a format in a list": _told(b'"PNG"', b'["PNG"]'),
    "a quality of what is no JPEG": _told(b"null", b"75"),
    "a quality that is true": _told_of_jpeg(b"true"),
    "a quality beyond the best": _told_of_jpeg(b"101"),
    "a quality in words": _told_of_jpeg(b'"75"'),
    "no measure of the content": _told(b"content", b"contents"),
    "a content in a list": _told(b'"content": ', b'"content": [], "contents": '),
    "a part of the content": _told(b', "relief": 2.5', b""),
    "a content of another image": _told(b'"side": 1', b'"side": 2'),
    "a side that is true": _told(b'"side": 1', b'"side": true'),
    "an endless relief": _told(b"2.5", b"Infinity"),
    "a relief that is no number": _told(b"2.5", b"NaN"),
    "a relief in words": _told(b"2.5", b'"2.5"'),
    "a share of less than nothing": _told(b"0.25", b"-0.25"),
    "a share of more than all": _told(b"0.25", b"1.25"),
    "a code that blames the service": _answer(_message(b'{"error": {"code": "internal", "message": ""}}')),
    "a message that is no text": _answer(_message(b'{"error": {"code": "corrupt_image", "message": {}}}')),
    "a code in a list": _answer(_message(b'{"error": {"code": [], "message": ""}}')),
    "no memory to say so": _no_memory,
    "pictures that are none": _answer(
        _message(_FACTS, _X.tobytes()), _message(b'{"lengths": {"heatmap": 4}}', b"<b>!")
    ),
    "pictures of other lengths": _pictures(b'{"heatmap": 9}'),
    "pictures without end": _pictures(b'{"heatmap": Infinity}'),
    "pictures of less than nothing": _pictures(b'{"heatmap": -1}'),
    "pictures of some length": _pictures(b'{"heatmap": "8"}'),
    "pictures without lengths": _pictures(b"[8]"),
    "pictures not asked for": _pictures(b'{"heatmap": 8, "overlay": 0}'),
    "a picture too many": _pictures(b'{"dire_map": 8, "overlay": 8, "heatmap": 8}'),
}


if __name__ == "__main__":
    vars(child)["decode"] = behave
    if sys.argv[1] == "unfiltered":
        vars(child)["install_filter"] = bool
    child.main(sys.argv[-2:])
