"""Clients that trickle, overdo or break off, over real sockets: each is refused in its time and holds nobody up."""

from __future__ import annotations

import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from api import connections
from api.headers import SAFE_HEADERS
from shared.settings import Settings
from tests.api_server import Server, serving
from tests.api_world import ApiWorld, png

TRICKLING = 200
#: Of a request beside them, on a machine that others use too. Who had to wait for a thread would wait for a deadline.
PROMPT_SECONDS = 5.0


@pytest.fixture(scope="module")
def server(api_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(api_settings, tmp_path_factory.mktemp("gunicorn")) as running:
        yield running


def _head(*lines: str) -> bytes:
    return "\r\n".join(["POST /v1/jobs HTTP/1.1", "Host: x", *lines, "", ""]).encode()


@contextmanager
def _trickling(server: Server, begins: Iterable[bytes]) -> Iterator[list[socket.socket]]:
    """Keep connections, one for each beginning of a request, that send that and then a byte now and then, for ever."""
    ended = threading.Event()
    with ExitStack() as stack:
        clients = []
        for begin in begins:
            clients.append(stack.enter_context(server.connect()))
            clients[-1].sendall(begin)

        def trickle() -> None:
            while not ended.wait(0.2):
                for client in clients:
                    with suppress(OSError):  # refused meanwhile
                        client.send(b"a", socket.MSG_DONTWAIT)

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            yield clients
        finally:
            ended.set()
            thread.join()


def _slowest(requests: Iterable[Callable[[], httpx.Response]], seconds: float) -> float:
    """Make requests for so long, each on a connection of its own; return how long the slowest took."""
    slowest, until, turns = 0.0, time.monotonic() + seconds, itertools.cycle(requests)
    while time.monotonic() < until:
        began = time.monotonic()
        assert next(turns)().is_success
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.05)  # a user, not a load
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


def test_clients_that_trickle_hold_nobody_up_and_are_let_go(api: ApiWorld, server: Server) -> None:
    """Half of them trickle heads; half have a valid key, and trickle the body of an upload."""
    form = "Content-Type: multipart/form-data; boundary=b"
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    begins = (
        b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        _head(f"Authorization: Bearer {api.one.key}", form, "Content-Length: 90000") + part,
    )
    with _trickling(server, begins * (TRICKLING // 2)) as clients:
        asked = (
            lambda: server.get("/v1/jobs", api.other.headers),
            lambda: server.post("/v1/jobs", api.other.headers, files={"image": png()}),
        )
        # Beyond the deadlines: closing connections whose clients go on sending may hold nobody up either.
        slowest = _slowest(asked, max(connections.HEAD_SECONDS, connections.BODY_SECONDS) + 3)
        print(f"slowest of the requests beside {TRICKLING} that trickle: {slowest:.3f} s")  # noqa: T201  # with -s
        assert slowest < PROMPT_SECONDS
        for client in clients:
            status, _, document = _answer(client, 1)
            assert (status, document["code"]) == (408, "request_timeout")
            assert _is_closed(client)


def test_clients_that_take_nothing_hold_nobody_up(api: ApiWorld, server: Server) -> None:
    """They ask for more files than a connection can hold, without a key, and read no answer."""
    asking = b"GET /docs/static/docs.js HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000
    with ExitStack() as stack:
        for _ in range(4 * connections.TURNS):
            client = stack.enter_context(server.connect())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(asking)
        assert _slowest([lambda: server.get("/v1/jobs", api.other.headers)], seconds=8) < PROMPT_SECONDS


def test_a_client_is_not_blamed_for_the_time_that_it_waits_for_its_turn() -> None:
    turns = threading.BoundedSemaphore(1)
    ours, theirs = socket.socketpair()
    with theirs, connections.ClientSocket(ours, turns) as client:
        turns.acquire()
        client.working = True
        client.expect(0.2)
        theirs.sendall(b"a")
        others = threading.Thread(target=_take_turn, args=(turns, 0.5))
        others.start()
        while client.recv(1) == b"a" and others.is_alive():  # until the other came in between
            theirs.sendall(b"a")
        others.join()
        theirs.sendall(b"b")
        assert client.recv(1)


def _take_turn(turns: threading.BoundedSemaphore, seconds: float) -> None:
    with turns:
        time.sleep(seconds)


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
