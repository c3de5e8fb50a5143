"""The messages between the worker and its sandboxed children: a JSON header, then raw bytes, both of limited length.

Nothing is ever unpickled: whoever made the image may have written what a child sends.
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
#: A wait is counted in ticks of so many seconds. They are short, because a process that is stopped again and again, as
#: by a quota of processor time, must not count the time for which it was stopped.
_TICK_SECONDS = 0.02

_T = TypeVar("_T")


class WireError(Exception):
    """The other side violates the protocol."""


class Allowance:
    """Limits how long, from now on, the other side may be idle: neither computing nor waiting for a processor.

    Its processor time has a limit of its own, and how long that takes depends on how busy the machine is. No gap
    counts for longer than a tick: where this process was stopped for a while, the file is not to blame.
    """

    def __init__(self, seconds: float, busy: Callable[[], float] = lambda: 0.0) -> None:
        """Allow `seconds` of idleness.

        `busy` returns for how many seconds the other side computed, or waited for a processor, since its last call.
        What it did before this exchange makes no difference: no more is added again than was counted.
        """
        self._seconds = self._left = seconds
        self._busy = busy
        self._counted_until = time.monotonic()

    def wait(self, sock: socket.socket, call: Callable[[], _T]) -> _T:
        """Return what `call`, which waits for the socket, returns; raise `TimeoutError` after the allowed seconds."""
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
        if gap >= _TICK_SECONDS:  # a shorter gap is counted with the next
            self._counted_until = now
            # The kernel reports a wait for a processor only when it is over: what was counted meanwhile is added again.
            self._left = min(self._left - min(gap, _TICK_SECONDS) + self._busy(), self._seconds)


def send(sock: socket.socket, header: Mapping[str, Any], *payloads: bytes, within: Allowance | None = None) -> None:
    """Send one message, its payloads one after the other; raise `TimeoutError` if `within` is used up."""
    encoded = json.dumps(header).encode()
    lengths = _LENGTHS.pack(len(encoded), sum(map(len, payloads)))
    for part in (lengths + encoded, *payloads):
        unsent = memoryview(part)
        while unsent:
            unsent = unsent[_waited(sock, partial(sock.send, unsent), within) :]


def receive(sock: socket.socket, max_payload: int, within: Allowance | None = None) -> tuple[dict[str, Any], bytearray]:
    """Return the header and the payload of the next message.

    Raises:
        EOFError: the other side has closed the connection.
        TimeoutError: `within` is used up.
        WireError: the message is too long, or its header is no JSON object.

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
    """Return `count` bytes. Memory is allocated as they arrive: a length that is only announced costs nothing."""
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
