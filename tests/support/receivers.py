"""Receivers of webhooks for tests: real HTTP servers on loopback that answer as their path says."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import gzip
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

CHUNK = 64 * 1024
GIGABYTE = 1024**3


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    host_lines: list[str]
    """Every `Host` that the head has: there must be one."""
    body: bytes
    behaviour: str
    """How it was answered: the name of the path, or what all paths were told to do then."""


@dataclass
class Receiver:
    """A running receiver and what it has seen.

    Paths: `/200`, `/500`, any other status; `/hang`; `/drip-head`, `/drip-body`; `/gigabyte`; `/redirect` to `/200`;
    `/nul`; `/garbage`; `/close`; `/reset`; `/deaf`, which does not read the body; `/endless-line`, `/endless-headers`,
    `/endless-1xx`, `/endless-extension`, as fast as they are read; `/drip-1xx`; `/bad-chunks`; `/cut-off`;
    `/gzip-bomb`, 200 MB of zeros. A query is left alone.
    """

    port: int
    received: list[Received] = field(default_factory=list)
    sent_bytes: int = 0
    most_at_once: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    """Set it to end every `/hang`, `/deaf` and drip."""
    retry_after: str | None = None
    """Set it to have every answer name it as its `Retry-After`."""
    location: str | None = None
    """Set it to have every answer name it as its `Location`."""
    behaviour: str | None = None
    """Set it to have every path behave as that one."""
    hanging: set[str] = field(default_factory=set)
    """Queries of those that hang whatever their path."""
    _here: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        with self._lock:
            self._here += 1
            self.most_at_once = max(self.most_at_once, self._here)
        try:
            yield
        finally:
            with self._lock:
                self._here -= 1


@contextlib.contextmanager
def running_receiver(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Receiver]:
    """Run a receiver on a free port until the block ends."""

    class Server(_Server):
        address_family = 10 if ":" in host else 2  # AF_INET6, AF_INET

    server = Server((host, 0), _Handler)
    server.receiver = receiver = Receiver(server.server_address[1])
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    receiver: Receiver

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a caller that hangs up is what most of these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        receiver = self.server.receiver
        with receiver.one_more():
            path, _, query = self.path.partition("?")
            name = receiver.behaviour or ("hang" if query in receiver.hanging else path.removeprefix("/"))
            if name == "deaf":
                receiver.released.wait(30)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {k.lower(): v for k, v in self.headers.items()}
            receiver.received.append(Received(self.path, headers, self.headers.get_all("Host") or [], body, name))
            self.close_connection = True
            if name in _BEHAVIOURS:
                _BEHAVIOURS[name](self)
            else:
                self._send(int(name), f"answer {name}".encode())

    def hang(self) -> None:
        self.server.receiver.released.wait(30)

    def drip_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self._drip(b"X-Drip: 1\r\n")

    def drip_body(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        self._drip(b".")

    def gigabyte(self) -> None:
        self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {GIGABYTE}\r\n\r\n".encode())
        for _ in range(GIGABYTE // CHUNK):
            self.wfile.write(b"x" * CHUNK)
            self.server.receiver.sent_bytes += CHUNK

    def redirect(self) -> None:
        self.send_response(302)
        self.send_header("Location", self.server.receiver.url("/200"))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def nul(self) -> None:
        self._send(200, b"a\0b\xffc")

    def garbage(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n" * 4)

    def close(self) -> None:
        """Answer nothing and hang up."""

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def endless_line(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Endless: ")
        self._flood(b"x" * CHUNK)

    def endless_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self._flood(b"X-Endless: 1\r\n" * 4096)

    def endless_1xx(self) -> None:
        self._flood(b"HTTP/1.1 102 Processing\r\n\r\n" * 2048)

    def drip_1xx(self) -> None:
        self._drip(b"HTTP/1.1 102 Processing\r\n\r\n")

    def endless_extension(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
        self._flood(b"x" * CHUNK)

    def bad_chunks(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n-1\r\n")

    def cut_off(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes.")

    def gzip_bomb(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        self.wfile.write(head % len(_bomb()) + _bomb())

    def log_message(self, *_: object) -> None:
        """Keep the tests' output quiet."""

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if self.server.receiver.retry_after is not None:
            self.send_header("Retry-After", self.server.receiver.retry_after)
        if self.server.receiver.location is not None:
            self.send_header("Location", self.server.receiver.location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _flood(self, wave: bytes) -> None:
        for _ in range(GIGABYTE // len(wave)):
            self.wfile.write(wave)
            self.server.receiver.sent_bytes += len(wave)

    def _drip(self, drop: bytes) -> None:
        while not self.server.receiver.released.wait(0.05):
            self.wfile.write(drop)


_BEHAVIOURS: dict[str, Callable[[_Handler], None]] = {
    "hang": _Handler.hang,
    "drip-head": _Handler.drip_head,
    "drip-body": _Handler.drip_body,
    "gigabyte": _Handler.gigabyte,
    "redirect": _Handler.redirect,
    "nul": _Handler.nul,
    "garbage": _Handler.garbage,
    "close": _Handler.close,
    "reset": _Handler.reset,
    "endless-line": _Handler.endless_line,
    "endless-headers": _Handler.endless_headers,
    "endless-1xx": _Handler.endless_1xx,
    "endless-extension": _Handler.endless_extension,
    "drip-1xx": _Handler.drip_1xx,
    "bad-chunks": _Handler.bad_chunks,
    "cut-off": _Handler.cut_off,
    "gzip-bomb": _Handler.gzip_bomb,
}


@functools.cache
def _bomb() -> bytes:
    """200 MB of zeros, packed."""
    return gzip.compress(bytes(200_000_000), compresslevel=1)


class Authority:
    """A certificate authority of our own, whose certificate lies in `file`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._issued = folder, 0
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority for tests")])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        certificate = self._certificate(self._name, self._key).add_extension(constraints, critical=True)
        self.file = folder / "authority.crt"
        self.file.write_bytes(_pem(certificate.sign(self._key, hashes.SHA256())))

    def server(self, *names: str, days: int = 1) -> ssl.SSLContext:
        """Return the context of a server that is called `names`; its certificate ends in `days`."""
        key, self._issued = ec.generate_private_key(ec.SECP256R1()), self._issued + 1
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        certificate = self._certificate(subject, key, days).add_extension(alternatives, critical=False)
        file = self._folder / f"receiver{self._issued}.pem"
        file.write_bytes(_pem(certificate.sign(self._key, hashes.SHA256())) + _key_pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int = 1
    ) -> x509.CertificateBuilder:
        ends = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
        begins = min(ends, dt.datetime.now(dt.UTC)) - dt.timedelta(minutes=5)
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
