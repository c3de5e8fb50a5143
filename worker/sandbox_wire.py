"""What the worker and its sandboxed children say to each other: a JSON header, then raw bytes, both of bounded length.

Nothing is ever unpickled: what a child sends may have been written by whoever made the image.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

_LENGTHS = struct.Struct("!II")
_MAX_HEADER = 4096
_MAX_PART = 1 << 18


class WireError(Exception):
    """The other side does not keep to the protocol."""


def send(sock: socket.socket, header: Mapping[str, Any], *payloads: bytes, deadline: float | None = None) -> None:
    """Send one message; its payloads follow each other. Raises TimeoutError at `deadline` (monotonic seconds)."""
    encoded = json.dumps(header).encode()
    lengths = _LENGTHS.pack(len(encoded), sum(map(len, payloads)))
    for part in (lengths + encoded, *payloads):
        sock.settimeout(_remaining(deadline))
        sock.sendall(part)


def receive(sock: socket.socket, max_payload: int, deadline: float | None = None) -> tuple[dict[str, Any], bytearray]:
    """The next message's header and payload.

    Raises EOFError where the other side has gone, TimeoutError at `deadline`, WireError for a message that is too long
    or whose header is no JSON object.
    """
    header_length, payload_length = _LENGTHS.unpack(_receive_exactly(sock, _LENGTHS.size, deadline))
    if header_length > _MAX_HEADER or payload_length > max_payload:
        raise WireError(f"a message of {header_length} + {payload_length} bytes")
    encoded = _receive_exactly(sock, header_length, deadline)
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise WireError("a header that is not JSON") from error
    if not isinstance(header, dict):
        raise WireError("a header that is not an object")
    return header, _receive_exactly(sock, payload_length, deadline)


def _receive_exactly(sock: socket.socket, count: int, deadline: float | None) -> bytearray:
    """`count` bytes. Memory is taken as they come: what is only promised may cost nothing."""
    received = bytearray()
    while len(received) < count:
        sock.settimeout(_remaining(deadline))
        part = sock.recv(min(count - len(received), _MAX_PART))
        if not part:
            raise EOFError
        received += part
    return received


def _remaining(deadline: float | None) -> float | None:
    """Seconds until `deadline`; None for no limit."""
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
