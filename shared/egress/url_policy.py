"""Which URLs this service may call: the pure half of the egress guard, without a look-up or a connection.

A tenant chooses the URLs of webhooks, so each is treated as an attack on what this machine can reach. Every address
that is not public is refused, unless the operator allows it in `DISTILDIRE_EGRESS_ALLOW`.
`worker/egress/http_client.py` is the other half: it looks names up, passes their addresses to `admit`, and connects to
exactly those that `admit` returns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NoReturn, Self

import httpx

from shared.egress.ip_ranges import IPAddress, IPNetwork, Kind, SpecialRange, special_range
from shared.errors import DistildireError

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65_535
_LONGEST_URL = 2_000
#: A host name in ASCII: labels of at most 63 characters, at most 253 in all. Underscores occur in container names.
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
#: A last label that resolvers take for a number, so that the whole name is read as an IPv4 address.
_NUMERIC_END = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")


_NOT_HTTPS = (
    "{} must be called by https://. Plain http:// is only for receivers that the operator allows in "
    "DISTILDIRE_EGRESS_ALLOW."
)


class EgressCode(StrEnum):
    """The closed list of reasons for which a URL was not called, or did not answer."""

    #: The URL cannot be read, is too long, or has a host or a port that cannot be.
    INVALID_URL = "invalid_url"
    #: The URL begins with something other than `https://` or `http://`.
    SCHEME_NOT_ALLOWED = "scheme_not_allowed"
    #: The URL contains a user name or a password.
    CREDENTIALS_IN_URL = "credentials_in_url"
    #: The URL's address is written in a way that programs read differently, such as `127.1`.
    ODD_ADDRESS = "odd_address"
    #: The host is, or its name leads to, an address that is not public.
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    #: The URL is plain `http`, and the operator did not allow its receiver.
    HTTPS_REQUIRED = "https_required"
    #: The host's name has no address.
    NAME_NOT_FOUND = "name_not_found"
    #: Looking up the host's name took more than 5 s.
    NAME_TIMEOUT = "name_timeout"
    #: No address of the host accepted the connection.
    CONNECT_FAILED = "connect_failed"
    #: The receiver's certificate is not valid for the URL's host, or the handshake broke off.
    TLS_FAILED = "tls_failed"
    #: 15 s were over. They are for look-up, connection, handshake, request and answer together.
    TIMEOUT = "timeout"
    #: The receiver closed the connection before its answer.
    CONNECTION_LOST = "connection_lost"
    #: The answer is not HTTP/1.1, is broken or cut off, or does not begin within its first 256 KiB.
    BAD_RESPONSE = "bad_response"


class EgressError(DistildireError):
    """The URL was not called, or did not answer."""

    def __init__(self, code: EgressCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class EgressRefused(EgressError):
    """The URL may not be called from here. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A parsed URL. The checks and the request both use these parts, so they cannot disagree."""

    scheme: str
    host: str
    """In ASCII and lower case, without brackets and without the root's full stop."""
    port: int
    target: str
    """Path and query, percent-encoded."""
    address: IPAddress | None
    """The host, where it is an address; None where it is a name."""

    @property
    def authority(self) -> str:
        """The value of the `Host` header: brackets around IPv6, and a port unless it is the scheme's own."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_localhost(self) -> bool:
        """Whether the name is reserved for the machine itself (RFC 6761)."""
        return self.host == "localhost" or self.host.endswith(".localhost")


@dataclass(frozen=True, slots=True)
class AllowList:
    """What may be called although it is not public, and by plain `http`.

    - `10.1.2.3`, `fd00::7`: this address on every port; `10.1.2.3:9000`, `[fd00::7]:9000`: on one port.
    - `10.0.0.0/8`: every private, shared or reserved address in it. It never opens loopback, link-local, metadata
      or embedded addresses, which open by their exact address only.
    - `receiver.internal:8080`: this name on this port, at the addresses that a CIDR could open; `localhost` and
      names under it also at loopback. A name never opens metadata: others may control what it resolves to.
    """

    addresses: frozenset[tuple[IPAddress, int | None]] = frozenset()
    networks: tuple[IPNetwork, ...] = ()
    names: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """Read the entries of `DISTILDIRE_EGRESS_ALLOW`; raise `ValueError` that names the first malformed one."""
        parsed = [_parse_entry(entry.strip().lower()) for entry in entries]
        return cls(
            addresses=frozenset((host, port) for host, port in parsed if isinstance(host, IPAddress)),
            networks=tuple(host for host, _ in parsed if isinstance(host, IPNetwork)),
            names=frozenset((host, port) for host, port in parsed if isinstance(host, str) and port is not None),
        )

    def opened_by(self, destination: Destination, address: IPAddress) -> str | None:
        """Return the entry by which the operator allows this destination at this address; None if none does."""
        for port in (None, destination.port):
            if (address, port) in self.addresses:
                return _entry(address, port)
        special = special_range(address)
        by_network = special is None or special.kind.opened_by_network
        if (destination.host, destination.port) in self.names and (
            by_network or (special is not None and special.kind is Kind.LOOPBACK and destination.is_localhost)
        ):
            return _entry(destination.host, destination.port)
        return next((str(network) for network in self.networks if by_network and address in network), None)


@dataclass(frozen=True, slots=True)
class AddressDecision:
    """Whether one address of a destination may be called, and which rule says so."""

    address: IPAddress
    refusal: EgressCode | None
    """None where it may be called."""
    special: SpecialRange | None
    """The range that it lies in; None where it is public."""
    opened_by: str | None
    """The entry of `DISTILDIRE_EGRESS_ALLOW` that allows it."""
    would_open: str | None
    """The narrowest entry that would allow it, where it is refused."""


def parse(url: str) -> Destination:
    """Take a URL apart; raise `EgressRefused` for what may never be called, whatever it resolves to.

    Refused: schemes other than http and https, user names and passwords, and IPv4 addresses in any form but four
    decimal numbers (`2130706433`, `0x7f.1`, `0177.0.0.1`, `127.1`: resolvers and parsers disagree on what these mean).
    """
    if len(url) > _LONGEST_URL:
        _refuse(EgressCode.INVALID_URL, f"The URL is longer than {_LONGEST_URL} characters.")
    try:
        parts = httpx.URL(url)
        raw_host = parts.raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError):  # idna's errors are UnicodeErrors
        _refuse(EgressCode.INVALID_URL, "The URL cannot be read. Write it as https://host/path.")
    if parts.scheme not in _DEFAULT_PORTS:
        _refuse(EgressCode.SCHEME_NOT_ALLOWED, "Only https:// and http:// URLs can be called.")
    if "@" in re.split(r"[/?#]", url.partition("//")[2])[0]:
        _refuse(EgressCode.CREDENTIALS_IN_URL, "The URL may not contain a user name or a password.")
    port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
    if not 1 <= port <= _LAST_PORT:
        _refuse(EgressCode.INVALID_URL, f"The URL's port must be 1 to {_LAST_PORT}.")
    host = raw_host.lower().removesuffix(".")
    return Destination(
        scheme=parts.scheme, host=host, port=port, target=parts.raw_path.decode("ascii"), address=_literal(host)
    )


def decide(destination: Destination, addresses: Iterable[IPAddress], allow: AllowList) -> tuple[AddressDecision, ...]:
    """Decide for each of a destination's addresses whether it may be called."""
    decisions = tuple(_decide(destination, address, allow) for address in addresses)
    if destination.is_localhost:
        # Where only one of 127.0.0.1 and ::1 is allowed, `localhost` means that one.
        return tuple(decision for decision in decisions if decision.opened_by) or decisions
    return decisions


def admit(destination: Destination, addresses: Iterable[IPAddress], allow: AllowList) -> tuple[IPAddress, ...]:
    """Return the addresses to connect to; raise `EgressRefused` if any of `addresses` is refused.

    One refused address refuses the destination: a name with both public and private addresses is not to be trusted.
    """
    decisions = decide(destination, addresses, allow)
    for decision in decisions:
        if decision.refusal is not None:
            _refuse(decision.refusal, _why(destination, decision))
    return tuple(decision.address for decision in decisions)


def require_https(destination: Destination, allow: AllowList) -> None:
    """Raise `EgressRefused` for plain http to a name that no entry can allow, whatever its addresses are."""
    allowed = allow.networks or allow.addresses or (destination.host, destination.port) in allow.names
    if destination.scheme != "https" and destination.address is None and not allowed:
        _refuse(EgressCode.HTTPS_REQUIRED, _NOT_HTTPS.format(destination.host))


def _decide(destination: Destination, address: IPAddress, allow: AllowList) -> AddressDecision:
    special, opened_by = special_range(address), allow.opened_by(destination, address)
    refusal = None
    if opened_by is None and special is not None:
        refusal = EgressCode.ADDRESS_NOT_ALLOWED
    elif opened_by is None and destination.scheme != "https":
        refusal = EgressCode.HTTPS_REQUIRED
    by_name = special is None or special.kind.opened_by_network
    would_open = _entry(destination.host if by_name else address, destination.port) if refusal else None
    return AddressDecision(address, refusal, special, opened_by, would_open)


def _why(destination: Destination, decision: AddressDecision) -> str:
    """Say why an address is refused, but not which: a tenant must not learn what an internal name resolves to."""
    if decision.special is not None:
        return (
            f"{destination.host} may not be called: it is {decision.special.kind}. Only public addresses are called, "
            "and those that the operator allows in DISTILDIRE_EGRESS_ALLOW."
        )
    return _NOT_HTTPS.format(destination.host)


def _literal(host: str) -> IPAddress | None:
    """Return the address if the host is one, None if it is a name; raise `EgressRefused` for anything else."""
    if ":" in host:
        return _ipv6(host)
    if _NUMERIC_END.fullmatch(host):
        try:
            return IPv4Address(host)
        except ValueError:
            _refuse(EgressCode.ODD_ADDRESS, "Write the URL's address as four decimal numbers, like 192.0.2.1.")
    if not _NAME.fullmatch(host):
        _refuse(EgressCode.INVALID_URL, "The URL's host is neither a name nor an address.")
    return None


def _ipv6(host: str) -> IPv6Address:
    try:
        address = IPv6Address(host)
    except ValueError:
        _refuse(EgressCode.INVALID_URL, "The URL's host is not an IPv6 address.")
    if address.scope_id is not None:
        _refuse(EgressCode.ODD_ADDRESS, "The URL's address may not name a network interface.")
    return address


def _parse_entry(entry: str) -> tuple[IPAddress | IPNetwork | str, int | None]:
    """Read one entry of the allow-list: an address, a network, or either an address or a name with a port."""
    try:
        if "/" in entry:
            return ip_network(entry), None
        if "]" not in entry and (entry.count(":") > 1 or ":" not in entry):
            return ip_address(entry), None
        host, _, port = entry.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if int(port) in range(1, _LAST_PORT + 1):
            return _literal(host) or host, int(port)
    except (ValueError, EgressRefused):
        pass  # one message for all, below
    raise ValueError(f"{entry!r} in DISTILDIRE_EGRESS_ALLOW is not a host:port, an address or a CIDR")


def _entry(host: IPAddress | str, port: int | None) -> str:
    """Write an entry of the allow-list as `_parse_entry` reads it."""
    if port is None:
        return str(host)
    brackets = isinstance(host, IPv6Address) or ":" in str(host)
    return f"[{host}]:{port}" if brackets else f"{host}:{port}"


def _refuse(code: EgressCode, message: str) -> NoReturn:
    raise EgressRefused(code, message)
