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
#: A wait is told in pieces of so many seconds.
_TICK_SECONDS = 0.1

_T = TypeVar("_T")


class WireError(Exception):
    """The other side does not keep to the protocol."""


class Allowance:
    """Seconds for an exchange, begun now. A process that was stopped and goes on used up none of them meanwhile.

    So no gap counts for longer than a tick: whose file it was must not pay for a machine that stood still.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds
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
                now = time.monotonic()
                self._left -= min(now - self._counted_until, _TICK_SECONDS)
                self._counted_until = now
        raise TimeoutError


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
