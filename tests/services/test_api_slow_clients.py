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
from dataclasses import dataclass, field
from io import BytesIO
from select import select

import httpx
import numpy as np
import pytest
from PIL import Image
from werkzeug.exceptions import RequestTimeout

from api import gunicorn_worker
from api.security_headers import SAFE_HEADERS
from shared.settings import Settings
from tests.support.api_server import ApiServer, serving
from tests.support.api_world import ApiWorld, png

TRICKLING = 200
#: What docs/security.md promises: seconds for a head and for a body, and the pace at which a body may take longer.
HEAD_SECONDS, BODY_SECONDS, BODY_BYTES_PER_SECOND = 10.0, 10.0, 32_000
#: Of a request beside them, on a machine that others use too. Who had to wait for a thread would wait for a deadline.
PROMPT_SECONDS = 5.0


@pytest.fixture(scope="module")
def server(api_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with serving(api_settings, tmp_path_factory.mktemp("gunicorn")) as running:
        yield running


def _head(*lines: str) -> bytes:
    return "\r\n".join(["POST /v1/jobs HTTP/1.1", "Host: x", *lines, "", ""]).encode()


@dataclass
class Slow:
    """A client that sends the beginning of a request, and then so many bytes a second, for ever."""

    begin: bytes
    bytes_per_second: int
    read_timeout: float
    """So many seconds after its first byte the server is to refuse it."""
    connection: socket.socket = field(init=False)
    began: float = field(init=False)
    answered_after: float | None = field(init=False, default=None)
    """Seconds from its first byte to the server's first."""

    def connect(self, server: ApiServer) -> socket.socket:
        self.connection = server.connect()
        self.began = self.sent_until = time.monotonic()
        self.connection.sendall(self.begin)
        return self.connection

    def go_on(self) -> None:
        """Send what the pace asks for; look whether there is an answer."""
        due = int((time.monotonic() - self.sent_until) * self.bytes_per_second)
        if due:
            self.sent_until += due / self.bytes_per_second
            with suppress(OSError):  # refused meanwhile
                self.connection.send(b"a" * due, socket.MSG_DONTWAIT)
        if self.answered_after is None and select([self.connection], [], [], 0)[0]:
            self.answered_after = time.monotonic() - self.began


@contextmanager
def _sending(server: ApiServer, clients: Iterable[Slow]) -> Iterator[None]:
    ended = threading.Event()
    with ExitStack() as stack:
        for client in clients:
            stack.enter_context(client.connect(server))

        def send() -> None:
            while not ended.wait(0.2):
                for client in clients:
                    client.go_on()

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
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


def test_clients_that_trickle_hold_nobody_up_and_are_let_go(api: ApiWorld, server: ApiServer) -> None:
    """Half of them trickle heads; half have a valid key, and trickle the body of an upload.

    A few more send bodies of which no end is in sight, at a quarter of the pace that is asked for.
    """
    form = "Content-Type: multipart/form-data; boundary=b"
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    upload = _head(f"Authorization: Bearer {api.one.key}", form, "Content-Length: 900000") + part
    begin = b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX-Slow: "
    clients = [Slow(begin, 5, HEAD_SECONDS) for _ in range(TRICKLING // 2)]
    clients += [Slow(upload, 5, BODY_SECONDS) for _ in range(TRICKLING // 2)]
    # Each of their seconds moves the end by a quarter of a second.
    clients += [Slow(upload, BODY_BYTES_PER_SECOND // 4, BODY_SECONDS * 4 / 3) for _ in range(4)]
    with _sending(server, clients):
        asked = (
            lambda: server.get("/v1/jobs", api.other.headers),
            lambda: server.post("/v1/jobs", api.other.headers, files={"image": png()}),
        )
        # Beyond the deadlines: closing connections whose clients go on sending may hold nobody up either.
        slowest = _slowest(asked, BODY_SECONDS * 4 / 3 + 3)
        print(f"slowest of the requests beside {len(clients)} that trickle: {slowest:.3f} s")  # noqa: T201  # with -s
        assert slowest < PROMPT_SECONDS
        for client in clients:
            status, _, document = _answer(client.connection, 1)
            assert (status, document["code"]) == (408, "request_timeout")
            assert _is_closed(client.connection)
            assert client.answered_after is not None
            # The server's 32 kB are a little more than ours.
            assert 0.97 * client.read_timeout <= client.answered_after < client.read_timeout + PROMPT_SECONDS


def test_clients_that_take_nothing_hold_nobody_up(api: ApiWorld, server: ApiServer) -> None:
    """They ask for more files than a connection can hold, without a key, and read no answer."""
    asking = b"GET /docs/static/docs.js HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000
    with ExitStack() as stack:
        for _ in range(4 * gunicorn_worker.TURNS):
            client = stack.enter_context(server.connect())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(asking)
        assert _slowest([lambda: server.get("/v1/jobs", api.other.headers)], seconds=8) < PROMPT_SECONDS


def test_a_client_is_not_blamed_for_the_time_that_it_waits_for_its_turn() -> None:
    turns = threading.BoundedSemaphore(1)
    ours, theirs = socket.socketpair()
    with theirs, gunicorn_worker.ClientSocket(ours, turns) as client:
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


def test_a_client_that_neither_sends_nor_takes_is_let_go_whatever_its_pace_would_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gunicorn_worker, "STALL_SECONDS", 0.2)
    ours, theirs = socket.socketpair()
    with theirs, gunicorn_worker.ClientSocket(ours, threading.BoundedSemaphore(1)) as client:
        client.expect(3600)
        with pytest.raises(RequestTimeout):
            client.recv(1)
        with pytest.raises(TimeoutError):
            client.sendall(b"x" * 10_000_000)


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


def test_a_body_that_comes_at_the_pace_asked_for_may_take_longer(api: ApiWorld, server: ApiServer) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (440, 440, 3), np.uint8)
    image = BytesIO()
    Image.fromarray(pixels).save(image, "PNG")
    body = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        + image.getvalue()
        + b"\r\n--b--\r\n"
    )
    assert len(body) > 1.2 * BODY_SECONDS * 1.5 * BODY_BYTES_PER_SECOND
    upload = _head(
        f"Authorization: Bearer {api.one.key}",
        "Content-Type: multipart/form-data; boundary=b",
        f"Content-Length: {len(body)}",
    )
    with server.connect() as client:
        client.sendall(upload)
        began, sent = time.monotonic(), 0
        while sent < len(body):
            due = int((time.monotonic() - began) * 1.5 * BODY_BYTES_PER_SECOND)
            client.sendall(body[sent:due])
            sent = max(sent, due)
            time.sleep(0.05)  # the pace itself is what is tested
        assert time.monotonic() - began > BODY_SECONDS
        assert _answer(client, 10)[0] == 202


def test_a_body_may_come_byte_by_byte(api: ApiWorld, server: ApiServer) -> None:
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
def test_what_is_no_request_is_refused_like_any_other(
    server: ApiServer, request_: bytes, status: int, code: str
) -> None:
    with server.connect() as client:
        client.sendall(request_)
        told, headers, document = _answer(client, 10)
        assert client.recv(1) == b""
    assert (told, document["code"]) == (status, code)
    assert headers["Content-Type"] == "application/problem+json"
    assert SAFE_HEADERS.items() <= headers.items()
    assert re.fullmatch("[0-9a-f]{32}", headers["X-Request-ID"])
    assert "canary" not in str(document) + server.log()


def test_a_body_that_is_not_chunked_as_it_says_is_refused(api: ApiWorld, server: ApiServer) -> None:
    head = _head(
        f"Authorization: Bearer {api.one.key}",
        "Content-Type: multipart/form-data; boundary=b",
        "Transfer-Encoding: chunked",
    )
    with server.connect() as client:
        client.sendall(head + b"xyz\r\n")
        status, _, document = _answer(client, 10)
    assert (status, document["code"]) == (400, "malformed_request")


def test_a_body_that_nobody_reads_does_not_go_on_for_ever(api: ApiWorld, server: ApiServer) -> None:
    with server.connect() as client:
        client.sendall(
            f"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.one.key}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        assert _answer(client, 10)[0] == 200
        chunks = (b"10000\r\n" + b"x" * 0x10000 + b"\r\n" for _ in range(10_000))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            _send_all(client, chunks)
