"""A real HTTP server of weights for tests, on loopback: honest, or as its script says for the next requests."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Manner = Literal[
    "honest",
    "cut",  # ends the connection after half of what it announced
    "cut-chunks",  # the same, without having said how much it is
    "ignore-range",  # 200 and everything
    "ignore-range-and-cut",
    "wrong-bytes",  # as many as there should be
    "shorter",  # announces, and sends, less than there is
    "longer",  # announces more than there is
    "other-start",  # 206 of another part than was asked for
    "lying-start",  # 206 that says it is the part, and begins at 0
    "busy",  # 503
    "missing",  # 404
    "page",  # 200 and a page of HTML
    "redirect",  # to /moved
    "circle",  # to itself
    "close",  # no answer at all
]


@dataclass(frozen=True)
class Request:
    """One request."""

    path: str
    range: str | None
    if_range: str | None


@dataclass
class WeightsServer:
    """A running server: what it has, what it does next, what it was asked."""

    port: int
    content: bytes
    etag: str | None = '"first"'
    script: list[Manner] = field(default_factory=list)
    """For the next requests, one each; honest afterwards."""
    always: Manner = "honest"
    asked: list[Request] = field(default_factory=list)

    def url(self, path: str = "/weights.bin") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextlib.contextmanager
def running_weights_server(content: bytes) -> Iterator[WeightsServer]:
    """Run a server on a free port until the block ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.weights = weights = WeightsServer(server.server_address[1], content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield weights
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    weights: WeightsServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that hangs up is one of the cases."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        weights = self.server.weights
        weights.asked.append(Request(self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        manner = weights.script.pop(0) if weights.script else weights.always
        self.close_connection = True
        match manner:
            case "close":
                return
            case "busy" | "missing":
                self._answer(503 if manner == "busy" else 404, {}, b"no")
            case "page":
                self._answer(200, {"Content-Type": "text/html; charset=utf-8"}, b"<!doctype html>" * 100)
            case "redirect" | "circle":
                location = "/moved" if manner == "redirect" else self.path
                self._answer(302, {"Location": location}, b"")
            case _:
                self._give(manner)

    def _give(self, manner: Manner) -> None:
        weights = self.server.weights
        content = bytes(reversed(weights.content)) if manner == "wrong-bytes" else weights.content
        start = 0 if manner.startswith("ignore-range") else self._start()
        headers = {"ETag": weights.etag} if weights.etag else {}
        if start >= len(content):
            self._answer(416, headers | {"Content-Range": f"bytes */{len(content)}"}, b"")
            return
        said = start + 7 if manner == "other-start" else start
        body = content[0 if manner == "lying-start" else start :]
        announced = len(body)
        if manner == "shorter":
            announced -= 10
            body = body[:announced]
        if manner == "longer":
            announced += 10
        if manner.endswith("cut"):
            body = body[: len(body) // 2]
        if start:
            headers |= {"Content-Range": f"bytes {said}-{len(content) - 1}/{len(content)}"}
        if manner == "cut-chunks":
            self._chunks(headers, body[: len(body) // 2])
        else:
            self._answer(206 if start else 200, headers | {"Content-Length": str(announced)}, body)

    def _start(self) -> int:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if wanted is None or condition not in (None, self.server.weights.etag):
            return 0
        return int(wanted[1])

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body)), "Connection": "close"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _chunks(self, headers: dict[str, str], body: bytes) -> None:
        self.send_response(200)
        for name, value in (headers | {"Transfer-Encoding": "chunked", "Connection": "close"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))

    def log_message(self, *_: object) -> None:
        """Say nothing."""
