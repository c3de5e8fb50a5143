"""gunicorn's threaded worker, with limits on what a slow or broken client can hold. It never logs the client's bytes.

There are many threads and few turns. A thread needs a turn to work on a request, and releases it while it waits for the
client's bytes. So a slow client holds a thread, for a limited time, and never a turn.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from threading import BoundedSemaphore
from typing import Any, TypeVar
from uuid import uuid4

import structlog
from gunicorn.http import errors
from gunicorn.util import close_graceful
from gunicorn.workers.gthread import TConn, ThreadWorker
from werkzeug.exceptions import RequestTimeout

from api.problems.table import (
    HEADERS_TOO_LARGE,
    INTERNAL,
    MALFORMED_REQUEST,
    MEDIA_TYPE,
    REQUEST_TIMEOUT,
    URL_TOO_LONG,
    ApiError,
    Problem,
    document,
)
from api.security_headers import SAFE_HEADERS

#: The most requests that one process works on at the same moment.
TURNS = 16
#: The time limit from a request's first byte to the end of its headers.
HEAD_SECONDS = 10.0
#: The time limit of a body, extended by each byte at the rate below: an image of 20 MB has some ten minutes.
BODY_SECONDS = 10.0
BODY_BYTES_PER_SECOND = 32 * 1024
#: A client that neither sends nor receives a byte for so long loses its connection.
STALL_SECONDS = 30.0

_PROBLEMS: tuple[tuple[type[Exception], Problem], ...] = (
    (RequestTimeout, REQUEST_TIMEOUT),
    (errors.LimitRequestLine, URL_TOO_LONG),
    (errors.LimitRequestHeaders, HEADERS_TOO_LARGE),
    (errors.ParseException, MALFORMED_REQUEST),
)

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class ClientSocket(socket.socket):
    """A client's connection. While a request is read, the client must send it before a deadline."""

    def __init__(self, accepted: socket.socket, turns: BoundedSemaphore) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._turns = turns
        self._deadline: float | None = None
        self._seconds_per_byte = 0.0
        self.working = False
        """Whether the connection's thread has a turn."""
        self.request: Any = None
        """gunicorn's request object, while the request is answered."""

    def setblocking(self, flag: bool, /) -> None:  # noqa: FBT001  # the standard library's signature
        """As ever, but harmless on a closed socket: `BoundedThreadWorker.handle` closes it, and gunicorn once more."""
        if self.fileno() >= 0:
            super().setblocking(flag)

    def expect(self, seconds: float, bytes_per_second: float = 0.0) -> None:
        """Set the deadline to `seconds` from now; each byte that arrives extends it by 1 / `bytes_per_second`."""
        self._deadline = time.monotonic() + seconds
        self._seconds_per_byte = 1 / bytes_per_second if bytes_per_second else 0.0

    def expect_nothing(self) -> None:
        """Have no deadline: whoever reads sets its own."""
        self._deadline = None

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Return what the client sent.

        Raises:
            RequestTimeout: it sends too slowly; the connection cannot be used again.

        """
        if self._deadline is None:
            return super().recv(size, flags)
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise RequestTimeout
        self.settimeout(min(left, STALL_SECONDS))
        try:
            data = self._without_turn(super().recv, size, flags)
        except TimeoutError:
            raise RequestTimeout from None
        self._deadline += len(data) * self._seconds_per_byte
        return data

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send all of `data`; raise `TimeoutError` if the client does not receive it in time."""
        self.settimeout(STALL_SECONDS)
        self._without_turn(super().sendall, data, flags)

    def _without_turn(self, wait: Callable[..., _T], *arguments: object) -> _T:
        if not self.working:
            return wait(*arguments)
        self._turns.release()
        try:
            return wait(*arguments)
        finally:
            began = time.monotonic()
            self._turns.acquire()
            if self._deadline is not None:  # the wait for a turn is not the client's fault
                self._deadline += time.monotonic() - began


class BoundedThreadWorker(ThreadWorker):  # type: ignore[misc]  # published without types
    """Reads the headers of a request without a turn, within a time limit; then takes a turn to answer it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._turns = BoundedSemaphore(TURNS)

    def enqueue_req(self, conn: TConn) -> None:
        """Have a thread read and answer a request; the first call for a connection wraps its socket."""
        if not isinstance(conn.sock, ClientSocket):
            conn.sock = ClientSocket(conn.sock, self._turns)
        super().enqueue_req(conn)

    def handle(self, conn: TConn) -> Any:
        """Read a request and answer it, in a thread; return whether the connection stays open."""
        conn.sock.expect(HEAD_SECONDS)
        goes_on = super().handle(conn)
        if not goes_on:
            # Closed here, not in the thread that accepts all connections: the client can make this wait.
            conn.sock.expect_nothing()
            close_graceful(conn.sock)
        return goes_on

    def handle_request(self, req: Any, conn: TConn) -> Any:
        """Answer a request whose headers were read."""
        with self._turns:
            conn.sock.expect(BODY_SECONDS, BODY_BYTES_PER_SECOND)
            conn.sock.working, conn.sock.request = True, req
            try:
                return super().handle_request(req, conn)
            finally:
                conn.sock.working, conn.sock.request = False, None

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:  # noqa: FBT001  # gunicorn's signature
        conn.sock.expect_nothing()  # gunicorn reads the rest of the body, with its own deadline
        return bool(super()._keepalive_after(conn, keepalive))

    def handle_error(self, _req: Any, client: socket.socket, _addr: Any, exc: Exception) -> None:
        """Answer a request that never reached the application.

        gunicorn would log what the client sent: a URL with its query, a header with a key.
        """
        found = next((problem for kind, problem in _PROBLEMS if isinstance(exc, kind)), INTERNAL)
        request_id = uuid4().hex
        if found is INTERNAL:
            #: gunicorn met an `error` that the API does not expect, and the request was answered 500. Report it.
            _log.error("request_failed", request_id=request_id, problem=found.code, error=type(exc).__name__)
        else:
            #: A request could not be read, and was answered with `problem`.
            _log.info("request_unreadable", request_id=request_id, problem=found.code, error=type(exc).__name__)
        try:
            client.sendall(_answer(found, request_id))
        except OSError:
            #: A client closed its connection before it could be told that its request cannot be read.
            _log.debug("client_gone", request_id=request_id)


def close_after(environment: Mapping[str, Any]) -> None:
    """Close a request's connection after its answer, and say so in the answer: gunicorn drops the app's own header."""
    client = environment.get("gunicorn.socket")
    if isinstance(client, ClientSocket):
        client.request.force_close()


def _answer(problem: Problem, request_id: str) -> bytes:
    body = document(ApiError(problem), request_id).encode()
    headers = {
        **SAFE_HEADERS,
        "X-Request-ID": request_id,
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {problem.status} {problem.title}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
