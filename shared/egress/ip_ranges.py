"""Which addresses are not public, and why: the table by which the egress guard decides.

`ipaddress.is_global` is not used: it counts several of these as global, and changes with Python's versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Kind(StrEnum):
    """Why an address is not public, in words that end the sentence "it is …"."""

    METADATA = "a cloud's metadata or control service"
    LOOPBACK = "a loopback address, that is, the service's own machine"
    UNSPECIFIED = 'an address of "this network", which reaches the service\'s own machine'
    LINK_LOCAL = "a link-local address"
    PRIVATE = "a private address"
    SHARED = "an address of a carrier's or an overlay network"
    EMBEDDED = "an IPv6 address that stands for another address (mapped, translated or tunnelled)"
    MULTICAST = "a multicast address"
    RESERVED = "an address reserved for documentation, tests or protocols"

    @property
    def opened_by_network(self) -> bool:
        """Whether an allowed CIDR or name opens it; the others open by their exact address only.

        Nobody who allows 0.0.0.0/0 or fc00::/7 means the machine itself or the credentials of its cloud.
        """
        return self in (Kind.PRIVATE, Kind.SHARED, Kind.RESERVED)


@dataclass(frozen=True, slots=True)
class SpecialRange:
    """A range of addresses that are not public."""

    network: IPNetwork
    kind: Kind


#: The first match decides. Sources: the IANA special-purpose registries for IPv4 and IPv6 (RFC 6890) and the clouds'
#: own documentation.
_RANGES: tuple[SpecialRange, ...] = tuple(
    SpecialRange(ip_network(network), kind)
    for kind, networks in (
        # AWS and most others, ECS, EKS; Azure; Alibaba; Oracle.
        (Kind.METADATA, "169.254.169.254 169.254.170.2 169.254.170.23 168.63.129.16 100.100.100.200 192.0.0.192"),
        # AWS, EKS, Google, Scaleway, Oracle.
        (Kind.METADATA, "fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:42::42 fd00:c1::a9fe:a9fe"),
        (Kind.LOOPBACK, "127.0.0.0/8 ::1"),
        (Kind.UNSPECIFIED, "0.0.0.0/8 ::"),
        (Kind.LINK_LOCAL, "169.254.0.0/16 fe80::/10"),
        # Unique local and the older site-local addresses are IPv6's private ones.
        (Kind.PRIVATE, "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10"),
        (Kind.SHARED, "100.64.0.0/10"),
        # Compatible, mapped, translated (RFC 2765), NAT64 (two prefixes), Teredo, 6to4 and its IPv4 relays.
        (Kind.EMBEDDED, "::/96 ::ffff:0:0/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48"),
        (Kind.EMBEDDED, "2001::/32 2002::/16 192.88.99.0/24"),
        (Kind.MULTICAST, "224.0.0.0/4 ff00::/8"),
        (Kind.RESERVED, "192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.175.48.0/24"),
        (Kind.RESERVED, "198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4"),
        (Kind.RESERVED, "2001::/23 2001:db8::/32 2620:4f:8000::/48 3fff::/20"),
        # What is left of IPv6 outside 2000::/3, the only part from which public addresses are given out.
        (Kind.RESERVED, "::/3 4000::/2 8000::/1"),
    )
    for network in networks.split()
)


def special_range(address: IPAddress) -> SpecialRange | None:
    """Return the range that says why an address is not public; None if it is."""
    return next((special for special in _RANGES if address in special.network), None)
