"""What the worker and its sandboxed children say to each other: a JSON header, then raw bytes, both of bounded length.

Nothing is ever unpickled: what a child sends may have been written by whoever made the image.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

_LENGTHS = struct.Struct("!II")
_MAX_HEADER = 4096
_MAX_PART = 1 << 18
#: A wait is told in pieces of so many seconds. Small ones, so that little counts of a time in which this process was
#: stopped again and again, as one is whose quota of processor time is enforced from outside.
_TICK_SECONDS = 0.02

_T = TypeVar("_T")


class WireError(Exception):
    """The other side does not keep to the protocol."""


class Allowance:
    """Seconds for an exchange, begun now, in which the other side neither computes nor waits for a processor.

    What it computes has a limit of its own; how long that takes is up to the machine, and to its neighbours there. And
    a process that was stopped and goes on used up nothing meanwhile, so no gap counts for longer than a tick: whose
    file it was must not pay for a machine that stood still.
    """

    def __init__(self, seconds: float, busy: Callable[[], float] = lambda: 0.0) -> None:
        """`busy` returns for how many seconds the other side has computed, or wanted to, since it was asked last.

        What it did before this exchange makes no difference: no more is given back than was counted.
        """
        self._seconds = self._left = seconds
        self._busy = busy
        self._counted_until = time.monotonic()

    def wait(self, sock: socket.socket, call: Callable[[], _T]) -> _T:
        """Return what `call`, which waits for the socket, returns; raise `TimeoutError` where none are left."""
        while self._left > 0:
            sock.settimeout(min(self._left, _TICK_SECONDS))
            try:
                return call()
            except TimeoutError:
                continue
            finally:
                self._count()
        raise TimeoutError

    def _count(self) -> None:
        now = time.monotonic()
        gap = now - self._counted_until
        if gap >= _TICK_SECONDS:  # less is counted with what follows
            self._counted_until = now
            # The kernel tells of a wait for a processor when it is over: what was counted meanwhile is given back then.
            self._left = min(self._left - min(gap, _TICK_SECONDS) + self._busy(), self._seconds)


def send(sock: socket.socket, header: Mapping[str, Any], *payloads: bytes, within: Allowance | None = None) -> None:
    """Send one message; its payloads follow each other. Raises TimeoutError where it takes longer than `within`."""
    encoded = json.dumps(header).encode()
    lengths = _LENGTHS.pack(len(encoded), sum(map(len, payloads)))
    for part in (lengths + encoded, *payloads):
        unsent = memoryview(part)
        while unsent:
            unsent = unsent[_waited(sock, partial(sock.send, unsent), within) :]


def receive(sock: socket.socket, max_payload: int, within: Allowance | None = None) -> tuple[dict[str, Any], bytearray]:
    """The next message's header and payload.

    Raises EOFError where the other side has gone, TimeoutError where it takes longer than `within`, WireError for a
    message that is too long or whose header is no JSON object.
    """
    header_length, payload_length = _LENGTHS.unpack(_receive_exactly(sock, _LENGTHS.size, within))
    if header_length > _MAX_HEADER or payload_length > max_payload:
        raise WireError(f"a message of {header_length} + {payload_length} bytes")
    encoded = _receive_exactly(sock, header_length, within)
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise WireError("a header that is not JSON") from error
    if not isinstance(header, dict):
        raise WireError("a header that is not an object")
    return header, _receive_exactly(sock, payload_length, within)


def _receive_exactly(sock: socket.socket, count: int, within: Allowance | None) -> bytearray:
    """`count` bytes. Memory is taken as they come: what is only promised may cost nothing."""
    received = bytearray()
    while len(received) < count:
        part = _waited(sock, partial(sock.recv, min(count - len(received), _MAX_PART)), within)
        if not part:
            raise EOFError
        received += part
    return received


def _waited(sock: socket.socket, call: Callable[[], _T], within: Allowance | None) -> _T:
    if within is not None:
        return within.wait(sock, call)
    sock.settimeout(None)
    return call()
