"""The API as gunicorn serves it: what the test client cannot show, over real sockets."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared.settings import Settings
from tests.support.api_server import LIMIT, ApiServer, serving
from tests.support.api_world import ApiWorld, picture, png

#: What may be on its way when the answer is written: socket buffers of both sides.
IN_FLIGHT = 8_000_000


@pytest.fixture(scope="module")
def server(api_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with serving(api_settings, tmp_path_factory.mktemp("gunicorn")) as running:
        yield running


def _request_head(api: ApiWorld, *headers: str) -> bytes:
    lines = ["POST /v1/jobs HTTP/1.1", "Host: x", f"Authorization: Bearer {api.one.key}"]
    return "\r\n".join([*lines, "Content-Type: multipart/form-data; boundary=b", *headers, "", ""]).encode()


def _read_answer(connection: socket.socket) -> bytes:
    connection.settimeout(10)
    answer = b""
    while b"}" not in answer and (part := connection.recv(65536)):
        answer += part
    return answer


def test_a_length_over_the_limit_is_refused_before_any_of_the_body(api: ApiWorld, server: ApiServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(_request_head(api, "Content-Length: 5000000000"))
        answer = _read_answer(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"body_too_large" in answer


def test_a_chunked_body_over_the_limit_is_refused_while_it_is_sent(api: ApiWorld, server: ApiServer) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(_request_head(api, "Transfer-Encoding: chunked"))
        connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        connection.settimeout(0.05)
        answer = b""
        while not answer and sent < 200_000_000:  # an endless body: the server must not wait for its end
            try:
                connection.sendall(chunk)
                sent += len(chunk)
                answer = connection.recv(65536, socket.MSG_DONTWAIT)
            except (BlockingIOError, TimeoutError):
                continue
            except (ConnectionResetError, BrokenPipeError):
                break
        answer = answer or _read_answer(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert sent < LIMIT + IN_FLIGHT


def test_a_bad_key_is_refused_before_any_of_the_body(server: ApiServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n")
        assert _read_answer(connection).startswith(b"HTTP/1.1 401")


def test_a_connection_that_will_be_closed_is_said_to_be(server: ApiServer, api: ApiWorld) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n")
        assert b"\r\nConnection: close\r\n" in _read_answer(connection)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        assert b"\r\nConnection: keep-alive\r\n" in _read_answer(connection)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert _read_answer(connection).startswith(b"HTTP/1.1 200")


def test_an_image_makes_the_whole_way(api: ApiWorld, server: ApiServer) -> None:
    with httpx.Client(base_url=server.url, headers=api.one.headers, trust_env=False) as client:
        accepted = client.post("/v1/jobs", files={"image": png()})
        assert accepted.status_code == 202
        api.succeed_next(width=500, height=400)
        job = client.get(accepted.headers["Location"], params={"include": "heatmap_scores"})
        assert len(job.json()["result"]["heatmap_scores"]) == 400
        assert client.get(job.json()["artifacts"]["overlay"]["href"]).content == picture("overlay")


def test_any_worker_answers_with_the_metrics_of_all(api: ApiWorld, server: ApiServer) -> None:
    for _ in range(30):  # a new connection each, so that both workers get some
        assert httpx.get(f"{server.url}/v1/jobs", headers=api.one.headers, trust_env=False).status_code == 200
    scrapes = [httpx.get(f"{server.url}/metrics", trust_env=False).text for _ in range(4)]
    wanted = 'distildire_http_request_seconds_count{method="GET",route="/v1/jobs",status="200"} 30.0'
    assert all(wanted in scrape for scrape in scrapes)


def test_a_stop_is_clean_and_leaves_no_files(server: ApiServer) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=30) == 0
    assert [path.name for path in server.temporary.iterdir()] == ["log"]
    assert "Traceback" not in (server.temporary / "log").read_text()


@pytest.mark.slow
def test_a_stop_waits_for_no_client_for_longer_than_half_a_minute(
    api: ApiWorld, api_settings: Settings, tmp_path: Path
) -> None:
    with serving(api_settings, tmp_path) as server:
        address = ("127.0.0.1", server.port)
        with socket.create_connection(address) as half_sent, socket.create_connection(address) as idle:
            half_sent.sendall(_request_head(api, "Content-Length: 900000") + b"--b\r\n")
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert _read_answer(idle).startswith(b"HTTP/1.1 200")
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=60) == 0
            assert time.monotonic() - began < 30
