"""gunicorn's threaded worker, with a bound on what a slow or broken client can hold, and no word of it in the log.

A client that trickles holds a thread, of which there are many, for a bounded time, and never one of the few turns in
which requests are worked on: a thread gives its turn back while it waits for a client's bytes.
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

from api.problems import (
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

#: Requests of one process that are worked on at the same moment.
TURNS = 16
#: From a request's first byte to the end of its head.
HEAD_SECONDS = 10.0
#: A body may take so long, and longer at the pace below: an image of 20 MB some ten minutes.
BODY_SECONDS = 10.0
BODY_BYTES_PER_SECOND = 32 * 1024
#: A client that neither sends nor takes a byte for so long loses its connection.
STALL_SECONDS = 30.0

_OWN_WORDS: tuple[tuple[type[Exception], Problem], ...] = (
    (RequestTimeout, REQUEST_TIMEOUT),
    (errors.LimitRequestLine, URL_TOO_LONG),
    (errors.LimitRequestHeaders, HEADERS_TOO_LARGE),
    (errors.ParseException, MALFORMED_REQUEST),
)

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class ClientSocket(socket.socket):
    """A connection of a client, whose sending has a deadline while a request is read."""

    def __init__(self, accepted: socket.socket, turns: BoundedSemaphore) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._turns = turns
        self._deadline: float | None = None
        self._pace = 0.0
        self.working = False
        """Whether this thread has one of the turns."""
        self.request: Any = None
        """gunicorn's, while it is answered."""

    def setblocking(self, flag: bool, /) -> None:  # noqa: FBT001  # the standard library's signature
        """As ever, but harmless on a closed socket: `BoundedThreadWorker.handle` closes it, and gunicorn once more."""
        if self.fileno() >= 0:
            super().setblocking(flag)

    def expect(self, seconds: float, bytes_per_second: float = 0.0) -> None:
        """From now on, read until `seconds` are over; each byte moves that moment by its time at the pace given."""
        self._deadline = time.monotonic() + seconds
        self._pace = 1 / bytes_per_second if bytes_per_second else 0.0

    def expect_nothing(self) -> None:
        """Leave the deadline to whoever reads."""
        self._deadline = None

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Return what the client sent.

        Raises:
            RequestTimeout: it sends too slowly; the connection is of no more use.

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
        self._deadline += len(data) * self._pace
        return data

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send all of `data`; raise `TimeoutError` where the client does not take it in time."""
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
            if self._deadline is not None:  # that was not the client's doing
                self._deadline += time.monotonic() - began


class BoundedThreadWorker(ThreadWorker):  # type: ignore[misc]  # published without types
    """Reads heads without a turn and within a time; then works in turn."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._turns = BoundedSemaphore(TURNS)

    def enqueue_req(self, conn: TConn) -> None:
        """Have a thread read and answer a request; called first when the connection is new."""
        if not isinstance(conn.sock, ClientSocket):
            conn.sock = ClientSocket(conn.sock, self._turns)
        super().enqueue_req(conn)

    def handle(self, conn: TConn) -> Any:
        """Read a head and answer it, in a thread; return whether the connection goes on."""
        conn.sock.expect(HEAD_SECONDS)
        goes_on = super().handle(conn)
        if not goes_on:
            # Here, not in the thread that accepts for all: a client may make this wait.
            conn.sock.expect_nothing()
            close_graceful(conn.sock)
        return goes_on

    def handle_request(self, req: Any, conn: TConn) -> Any:
        """Answer a request whose head was read."""
        with self._turns:
            conn.sock.expect(BODY_SECONDS, BODY_BYTES_PER_SECOND)
            conn.sock.working, conn.sock.request = True, req
            try:
                return super().handle_request(req, conn)
            finally:
                conn.sock.working, conn.sock.request = False, None

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:  # noqa: FBT001  # gunicorn's signature
        conn.sock.expect_nothing()  # gunicorn reads what was left of the body, with a deadline of its own
        return bool(super()._keepalive_after(conn, keepalive))

    def handle_error(self, _req: Any, client: socket.socket, _addr: Any, exc: Exception) -> None:
        """Answer what never became a request of the application.

        gunicorn would repeat in its log what the client sent: an address with its query, a header with a key.
        """
        found = next((problem for kind, problem in _OWN_WORDS if isinstance(exc, kind)), INTERNAL)
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
    """Close the connection of a request after its answer, and say so in the answer. gunicorn drops the app's header."""
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
