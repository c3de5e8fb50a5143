"""Receivers of webhooks for tests: real HTTP servers on loopback that answer as their path says."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import ssl
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
    `/nul`; `/garbage`; `/close`; `/deaf`, which does not read the body. A query is left alone.
    """

    port: int
    received: list[Received] = field(default_factory=list)
    sent_bytes: int = 0
    most_at_once: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    """Set it to end every `/hang`, `/deaf` and drip."""
    location: str | None = None
    """Set it to have every answer name it as its `Location`."""
    behaviour: str | None = None
    """Set it to have every path behave as that one."""
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
            name = receiver.behaviour or self.path.partition("?")[0].removeprefix("/")
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

    def log_message(self, *_: object) -> None:
        """Keep the tests' output quiet."""

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if self.server.receiver.location is not None:
            self.send_header("Location", self.server.receiver.location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

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
}


def self_signed(folder: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    """Make a certificate for `names` that nobody vouches for; return a server's context and the certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "receiver.crt", folder / "receiver.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    return context, certificate_file


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
