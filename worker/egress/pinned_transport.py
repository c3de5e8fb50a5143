"""Connections to checked addresses: by address only, until one deadline, and for a limited number of bytes.

The egress guard gives these to its HTTP client. Whatever a receiver does, a call ends at its deadline and reads no more
than its budget, even if bytes arrive one by one or the answer's head never ends.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address, ip_address

import httpcore

from shared.egress.ip_ranges import IPAddress

_CONNECT_SECONDS = 5.0
#: The most bytes of an answer that are read, with interim answers and its head. Far less of the body is kept.
_MOST_BYTES = 256 * 1024


class PinnedBackend(httpcore.NetworkBackend):
    """Connects to the addresses that were checked, and never looks at the host's name again."""

    def __init__(self, addresses: Sequence[IPAddress], deadline: float) -> None:
        self._addresses = addresses
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002  # checked already; connecting by name would look it up again
        port: int,
        timeout: float | None = None,  # noqa: ARG002  # the deadline rules
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> BoundedStream:
        """Connect to the first address that accepts."""
        failure: OSError = OSError("no address")
        for address in self._addresses:
            try:
                return BoundedStream(_connect(address, port, self._deadline), self._deadline)
            except OSError as error:
                failure = error
        if isinstance(failure, TimeoutError):
            raise httpcore.ConnectTimeout from failure
        raise httpcore.ConnectError from failure


class BoundedStream(httpcore.NetworkStream):
    """A connection on which each single wait ends with the deadline of the whole call."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._budget = _MOST_BYTES

    @property
    def peer(self) -> IPAddress:
        """The address at the other end, as the operating system tells it."""
        return ip_address(self._connection.getpeername()[0])

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  # the deadline rules
        """Return what has come, waiting until the deadline for a first byte; `b""` at the end."""
        try:
            self._connection.settimeout(_remaining(self._deadline))
            received = self._connection.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout from error
        except OSError as error:
            raise httpcore.ReadError from error
        self._budget -= len(received)
        if self._budget < 0:
            raise httpcore.RemoteProtocolError("The answer's head does not end.")
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        """Send all of `buffer`, or fail at the deadline."""
        unsent = memoryview(buffer)
        try:
            while unsent:
                self._connection.settimeout(_remaining(self._deadline))
                unsent = unsent[self._connection.send(unsent) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout from error
        except OSError as error:
            raise httpcore.WriteError from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> BoundedStream:
        """Verify the receiver's certificate for `server_hostname`; return the same connection, secured."""
        try:
            self._connection.settimeout(_remaining(self._deadline))
            secured = ssl_context.wrap_socket(self._connection, server_hostname=server_hostname)
        except TimeoutError as error:
            self.close()
            raise httpcore.ConnectTimeout from error
        except ssl.SSLError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise httpcore.ConnectError from error
        return BoundedStream(secured, self._deadline)

    def get_extra_info(self, info: str) -> object:  # noqa: ARG002
        """Tell nothing: the connection is used once, and ALPN offers nothing but HTTP/1.1."""
        return None


def _connect(address: IPAddress, port: int, deadline: float) -> socket.socket:
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(min(_CONNECT_SECONDS, _remaining(deadline)))
        connection.connect((str(address), port))
        # Head and body are sent apart; without this the body waits for the receiver's delayed acknowledgement.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        connection.close()
        raise
    return connection


def _remaining(deadline: float) -> float:
    """Return the seconds left; raise `TimeoutError` if there are none, since a timeout of 0 means another mode."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
