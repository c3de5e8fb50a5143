"""A way to the object store that can be made bad: 503, slow or silent, resets, cut short, other bytes.

One request a connection: what is forwarded says `Connection: close`, so an answer ends where the stream does and can be
changed without understanding it. Signatures stay valid, since the host that was signed is passed on.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator
from enum import StrEnum
from socketserver import BaseRequestHandler, ThreadingTCPServer

_HEAD_END = b"\r\n\r\n"
_CHUNK = 64 * 1024
_SECONDS = 30.0
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Behaviour(StrEnum):
    """What the proxy does to a request."""

    CLEAN = "clean"
    UNAVAILABLE = "503"
    SLOW = "slow"
    SILENT = "silent"
    RESET = "reset"
    CUT_ANSWER = "cut answer"
    CUT_REQUEST = "cut request"
    WRONG_ANSWER = "wrong bytes in answers"
    WRONG_REQUEST = "wrong bytes in requests"


class StoreProxy:
    """Listens on a port of loopback and passes on to another; some requests, by chance, go the bad way."""

    def __init__(self, port: int, upstream: int, seed: int) -> None:
        self.port, self.upstream = port, upstream
        self.released = threading.Event()
        self._chance = random.Random(seed)
        self._behaviour, self._share, self._delay = Behaviour.CLEAN, 0.0, 0.0
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.proxy = self
        threading.Thread(target=self._server.serve_forever, name="proxy", daemon=True).start()

    def misbehave(self, behaviour: Behaviour, *, share: float, delay: float = 1.0) -> None:
        """Send this share of requests the bad way from now on; `delay`, seconds, is that of `SLOW`."""
        self.released.clear()
        self._behaviour, self._share, self._delay = behaviour, share, delay

    def behave(self) -> None:
        """Pass everything on again, and hang up on who was met with silence."""
        self._behaviour = Behaviour.CLEAN
        self.released.set()

    def close(self) -> None:
        """Listen no more."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def draw(self) -> tuple[Behaviour, float]:
        """Decide one request's behaviour, and how long it is held up."""
        behaviour, delay = self._behaviour, self._delay
        return (behaviour, delay) if self._chance.random() < self._share else (Behaviour.CLEAN, 0.0)


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128
    proxy: StoreProxy

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: broken connections are what this is for."""


class _Handler(BaseRequestHandler):
    server: _Server
    request: socket.socket

    def handle(self) -> None:
        self.request.settimeout(_SECONDS)
        request = _read_request(self.request)
        if request is None:
            return
        behaviour, delay = self.server.proxy.draw()
        match behaviour:
            case Behaviour.UNAVAILABLE:
                self.request.sendall(_UNAVAILABLE)
            case Behaviour.SILENT:
                self.server.proxy.released.wait(_SECONDS)
            case Behaviour.RESET:
                _reset(self.request)
            case _:
                self._pass_on(request, behaviour, delay)

    def _pass_on(self, request: bytes, behaviour: Behaviour, delay: float) -> None:
        self.server.proxy.released.wait(delay if behaviour is Behaviour.SLOW else 0)
        with socket.create_connection(("127.0.0.1", self.server.proxy.upstream), _SECONDS) as upstream:
            upstream.sendall(_spoilt(request, behaviour is Behaviour.CUT_REQUEST, behaviour is Behaviour.WRONG_REQUEST))
            if behaviour is Behaviour.CUT_REQUEST:
                return
            answer = b"".join(_chunks(upstream))
        self.request.sendall(_spoilt(answer, behaviour is Behaviour.CUT_ANSWER, behaviour is Behaviour.WRONG_ANSWER))


def _spoilt(message: bytes, cut: bool, wrong: bool) -> bytes:
    """Return an HTTP message with half of its body, or with one bit of it turned; one without a body stays whole."""
    head, end, body = message.partition(_HEAD_END)
    if cut and body:
        body = body[: len(body) // 2]
    if wrong and body:
        middle = len(body) // 2
        body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    return head + end + body


def _read_request(client: socket.socket) -> bytes | None:
    """Read one whole request; None where the client hung up first. Its head then asks to close after the answer."""
    data = b""
    for chunk in _chunks(client):
        data += chunk
        head, end, body = data.partition(_HEAD_END)
        if end and len(body) >= _content_length(head):
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            return b"\r\n".join([*lines, b"Connection: close"]) + end + body
    return None


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _chunks(stream: socket.socket) -> Iterator[bytes]:
    while chunk := stream.recv(_CHUNK):
        yield chunk


def _reset(client: socket.socket) -> None:
    """Close with RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        client.close()
