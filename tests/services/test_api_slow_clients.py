"""Clients that trickle, overdo or break off, over real sockets: each is refused in its time and holds nobody up."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from api import connections
from api.headers import SAFE_HEADERS
from shared.settings import Settings
from tests.api_server import Server, serving
from tests.api_world import ApiWorld, png

TRICKLING = 200
#: Of a request beside them, on a machine that others use too.
PROMPT_SECONDS = 2.0


@pytest.fixture(scope="module")
def server(api_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(api_settings, tmp_path_factory.mktemp("gunicorn")) as running:
        yield running


def _head(*lines: str) -> bytes:
    return "\r\n".join(["POST /v1/jobs HTTP/1.1", "Host: x", *lines, "", ""]).encode()


@contextmanager
def _trickling(server: Server, begin: bytes, more: bytes) -> Iterator[list[socket.socket]]:
    """Keep connections that sent `begin` and then send a byte of `more` at a time, for ever."""
    ended = threading.Event()
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(TRICKLING)]
        for client in clients:
            client.sendall(begin)

        def trickle() -> None:
            place = 0
            while not ended.wait(0.2):
                for client in clients:
                    try:
                        client.send(more[place % len(more) :][:1], socket.MSG_DONTWAIT)
                    except OSError:  # refused meanwhile
                        continue
                place += 1

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            yield clients
        finally:
            ended.set()
            thread.join()


def _slowest(request: Callable[[], httpx.Response], expected: int, seconds: float) -> float:
    """Make requests for so long, each on a connection of its own; return how long the slowest took."""
    slowest, until = 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        assert request().status_code == expected
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.05)  # a user, not a load
    print(f"slowest of the requests beside {TRICKLING} that trickle: {slowest:.3f} s")  # noqa: T201  # with -s
    return slowest


def _answer(client: socket.socket, seconds: float) -> tuple[int, dict[str, str], dict[str, object]]:
    """Read a whole answer: status, headers, document."""
    client.settimeout(seconds)
    received = b""
    while b"\r\n\r\n" not in received or not received.rstrip().endswith(b"}"):
        part = client.recv(65536)
        assert part, received
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), json.loads(body)


def test_heads_that_trickle_hold_nobody_up_and_end(api: ApiWorld, server: Server) -> None:
    with _trickling(server, b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"a") as clients:
        # Beyond their deadline: closing connections whose clients go on sending may hold nobody up either.
        slowest = _slowest(lambda: server.get("/v1/jobs", api.one.headers), 200, connections.HEAD_SECONDS + 3)
        assert slowest < PROMPT_SECONDS
        for client in clients:
            status, headers, document = _answer(client, 1)
            assert (status, document["code"], headers["Connection"]) == (408, "request_timeout", "close")
            assert _is_closed(client)


def test_bodies_that_trickle_hold_nobody_up_and_end(api: ApiWorld, server: Server) -> None:
    """Each has a valid key, and passes every check that is made before the body is read."""
    head = _head(
        f"Authorization: Bearer {api.one.key}", "Content-Type: multipart/form-data; boundary=b", "Content-Length: 90000"
    )
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    with _trickling(server, head + part, b"x") as clients:
        submit = {"files": {"image": png()}}
        seconds = connections.BODY_SECONDS + 3
        slowest = _slowest(lambda: server.post("/v1/jobs", api.other.headers, **submit), 202, seconds)
        assert slowest < PROMPT_SECONDS
        for client in clients:
            status, _, document = _answer(client, 1)
            assert (status, document["code"]) == (408, "request_timeout")
            assert _is_closed(client)


def _send_all(client: socket.socket, parts: Iterable[bytes]) -> None:
    for part in parts:
        client.sendall(part)


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_body_that_comes_at_the_pace_asked_for_may_take_longer(api: ApiWorld, server: Server) -> None:
    fields = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + png() + b"\r\n--b--\r\n"
    head = _head(
        f"Authorization: Bearer {api.one.key}",
        "Content-Type: multipart/form-data; boundary=b",
        f"Content-Length: {len(fields)}",
    )
    with server.connect() as client:
        client.sendall(head)
        for byte in fields:  # a byte at a time, but in time
            client.sendall(bytes([byte]))
        assert _answer(client, 10)[0] == 202


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "url_too_long"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(65)) + b"\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization Bearer dd_canary\r\n\r\n", 400, "malformed_request"),
        (b"canary\r\n\r\n", 400, "malformed_request"),
    ],
    ids=["long address", "long header", "many headers", "no header", "no request"],
)
def test_what_is_no_request_is_refused_like_any_other(server: Server, request_: bytes, status: int, code: str) -> None:
    with server.connect() as client:
        client.sendall(request_)
        told, headers, document = _answer(client, 10)
        assert client.recv(1) == b""
    assert (told, document["code"]) == (status, code)
    assert headers["Content-Type"] == "application/problem+json"
    assert SAFE_HEADERS.items() <= headers.items()
    assert re.fullmatch("[0-9a-f]{32}", headers["X-Request-ID"])
    assert "canary" not in str(document) + server.log()


def test_a_body_that_is_not_chunked_as_it_says_is_refused(api: ApiWorld, server: Server) -> None:
    head = _head(
        f"Authorization: Bearer {api.one.key}",
        "Content-Type: multipart/form-data; boundary=b",
        "Transfer-Encoding: chunked",
    )
    with server.connect() as client:
        client.sendall(head + b"xyz\r\n")
        status, _, document = _answer(client, 10)
    assert (status, document["code"]) == (400, "malformed_request")


def test_a_body_that_nobody_reads_does_not_go_on_for_ever(api: ApiWorld, server: Server) -> None:
    with server.connect() as client:
        client.sendall(
            f"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.one.key}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        assert _answer(client, 10)[0] == 200
        chunks = (b"10000\r\n" + b"x" * 0x10000 + b"\r\n" for _ in range(10_000))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            _send_all(client, chunks)
