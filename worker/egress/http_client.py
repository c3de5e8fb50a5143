"""The egress guard: the only way by which this service calls a URL that a tenant chose.

`shared/egress/url_policy.py` decides about URLs and addresses. This module looks a name up once, and connects to the
very addresses that were checked, so a name that resolves differently the next time (DNS rebinding) gains nothing. TLS
is verified against the original name. Redirects are not followed, proxies of the environment are not used, and content
encodings are not decoded. One deadline covers look-up, connection, request and answer, however slow each is.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address

import httpcore
import httpx

from shared.egress.ip_ranges import IPAddress
from shared.egress.url_policy import AllowList, Destination, EgressCode, EgressError, admit, parse
from worker.egress.pinned_transport import PinnedBackend

#: The bytes of an answer's body that are read and kept; then the connection is closed.
EXCERPT_BYTES = 4_096
_RESOLVE_SECONDS = 5.0

Resolver = Callable[[str, int], Sequence[IPAddress]]


class EgressFailed(EgressError):
    """The URL may be called, but did not answer as it should."""


@dataclass(frozen=True, slots=True)
class Target:
    """A destination and its addresses, looked up once. Connections go to no other address."""

    destination: Destination
    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class EgressResponse:
    """What the receiver answered."""

    status: int
    body_excerpt: str
    """At most `EXCERPT_BYTES` of the body, as UTF-8; what is not UTF-8, and NUL, is replaced."""
    retry_after: str | None = None
    """The header of this name; None if there is none."""


def system_resolver(host: str, port: int) -> list[IPAddress]:
    """Look a name up as the operating system does; raises `OSError` if it has no address."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(sockaddr[0]) for _, _, _, _, sockaddr in answers]


class Egress:
    """Calls URLs that strangers chose. Safe for use by several threads; keeps no connection open."""

    def __init__(self, allow: Sequence[str] = (), resolver: Resolver = system_resolver) -> None:
        """Take the entries of `DISTILDIRE_EGRESS_ALLOW`; raise `ValueError` for a malformed one."""
        self._allow = AllowList.parse(allow)
        self._resolver = resolver

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Verify receivers by the bundled authorities, or by those of `SSL_CERT_FILE` or `SSL_CERT_DIR`."""
        try:
            return httpx.create_ssl_context()
        except OSError as error:
            raise EgressFailed(
                EgressCode.TLS_FAILED, "What SSL_CERT_FILE or SSL_CERT_DIR names holds no authorities to verify by."
            ) from error

    def look_up(self, url: str, timeout: float = _RESOLVE_SECONDS) -> Target:
        """Take a URL apart and look its name up, within `timeout` seconds; only the URL's form is checked yet.

        Raises `EgressRefused` for a URL that may never be called, `EgressFailed` if its name cannot be looked up.
        """
        destination = parse(url)
        if destination.address is not None:
            return Target(destination, (destination.address,))
        return Target(destination, tuple(self._resolve(destination, min(timeout, _RESOLVE_SECONDS))))

    def check(self, url: str, timeout: float = _RESOLVE_SECONDS) -> Target:
        """Look a URL up and check whether it may be called, within `timeout` seconds.

        Raises `EgressRefused` if it may not be called, `EgressFailed` if its name cannot be looked up.
        """
        found = self.look_up(url, timeout)
        return Target(found.destination, admit(found.destination, found.addresses, self._allow))

    def connect(self, target: Target, timeout: float) -> IPAddress:
        """Connect to what `check` returned, as `post` does, certificate and all; send nothing.

        Return the address that was reached, as the operating system tells it. Raises `EgressFailed`.
        """
        destination = target.destination
        backend = PinnedBackend(target.addresses, time.monotonic() + timeout)
        with _plain_failures():
            connection = backend.connect_tcp(destination.host, destination.port)
            if destination.scheme == "https":
                connection = connection.start_tls(self._tls, destination.host)
            with contextlib.closing(connection):
                return connection.peer

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> EgressResponse:
        """Post `body` and return the answer, whatever its status; all of it within `timeout` seconds.

        Raises `EgressRefused` if the URL may not be called, `EgressFailed` if no whole answer came in time.
        """
        deadline = time.monotonic() + timeout
        target = self.check(url, timeout)
        destination = target.destination
        origin = httpcore.Origin(destination.scheme.encode(), destination.host.encode(), destination.port)
        backend = PinnedBackend(target.addresses, deadline)
        with (
            _plain_failures(),
            httpcore.HTTPConnection(origin, ssl_context=self._tls, network_backend=backend) as connection,
            connection.stream(
                "POST",
                httpcore.URL(
                    scheme=origin.scheme, host=origin.host, port=origin.port, target=destination.target.encode()
                ),
                headers=[("Host", destination.authority), ("Connection", "close"), *headers.items()],
                content=body,
            ) as response,
        ):
            retry_after = next((value for name, value in response.headers if name.lower() == b"retry-after"), None)
            asked_for = retry_after.decode("latin-1") if retry_after is not None else None
            return EgressResponse(response.status, _excerpt(response.iter_stream()), asked_for)

    def _resolve(self, destination: Destination, timeout: float) -> Sequence[IPAddress]:
        # getaddrinfo takes no time limit, so it runs in a thread that is left behind when it takes too long. That
        # thread ends by the system resolver's own limit of some seconds, so they do not pile up without bound.
        answer: Future[Sequence[IPAddress]] = Future()
        look_up = threading.Thread(target=_answer, args=(answer, self._resolver, destination), daemon=True)
        look_up.start()
        try:
            addresses = answer.result(timeout)
        except TimeoutError as error:
            raise EgressFailed(EgressCode.NAME_TIMEOUT, "Looking up the host's name took too long.") from error
        except OSError as error:
            raise EgressFailed(EgressCode.NAME_NOT_FOUND, "The host's name was not found.") from error
        if not addresses:
            raise EgressFailed(EgressCode.NAME_NOT_FOUND, "The host's name has no address.")
        return addresses


def _answer(answer: Future[Sequence[IPAddress]], resolver: Resolver, destination: Destination) -> None:
    try:
        answer.set_result(resolver(destination.host, destination.port))
    except Exception as error:  # noqa: BLE001  # whatever it is belongs to the thread that waits for the answer
        answer.set_exception(error)


def _excerpt(chunks: Iterable[bytes]) -> str:
    """Read the beginning of a body; the rest is never asked for."""
    kept = bytearray()
    for chunk in chunks:
        kept += chunk
        if len(kept) >= EXCERPT_BYTES:
            break
    # PostgreSQL's text holds every character but NUL.
    return kept[:EXCERPT_BYTES].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


#: The end of httpcore's errors: a stable code and plain words for each. The first that matches counts.
_FAILURES: dict[type[Exception], tuple[EgressCode, str]] = {
    httpcore.TimeoutException: (EgressCode.TIMEOUT, "The receiver did not answer in time."),
    ssl.SSLError: (EgressCode.TLS_FAILED, "The receiver's TLS certificate is not valid for it, or TLS failed."),
    httpcore.ConnectError: (EgressCode.CONNECT_FAILED, "The receiver did not accept the connection."),
    httpcore.NetworkError: (EgressCode.CONNECTION_LOST, "The receiver closed the connection before its answer."),
    httpcore.ProtocolError: (EgressCode.BAD_RESPONSE, "The receiver's answer is not HTTP/1.1, or was cut off."),
}


@contextlib.contextmanager
def _plain_failures() -> Iterator[None]:
    try:
        yield
    except tuple(_FAILURES) as error:
        code, message = next(said for kind, said in _FAILURES.items() if isinstance(error, kind))
        raise EgressFailed(code, message) from error
