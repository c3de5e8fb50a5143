"""A world in which every address of IPv4 and IPv6 is this machine, so that whoever is called, answers.

`unshare --user --map-root-user --net python -m tests.support.every_address COMMAND…` runs a command there: the network
namespace has nothing but a loopback device, and the whole of both address spaces is routed to it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence

ENTER = ("unshare", "--user", "--map-root-user", "--net", sys.executable, "-m", "tests.support.every_address")
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
# <linux/rtnetlink.h>
_RTM_NEWROUTE, _NLM_F_REQUEST_ACK_CREATE = 24, 0x1 | 0x4 | 0x400
_RT_TABLE_LOCAL, _RTPROT_BOOT, _RT_SCOPE_HOST, _RTN_LOCAL, _RTA_OIF = 255, 3, 254, 2, 4


def may_be_entered() -> bool:
    """Whether this kernel lets us make such a world; some containers may not."""
    if shutil.which(ENTER[0]) is None:
        return False
    return subprocess.run([*ENTER, "true"], capture_output=True, check=False, timeout=60).returncode == 0


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _route_everything_here(family: int) -> None:
    """Do as `ip route add local default dev lo`, which not every machine has."""
    message = struct.pack("BBBBBBBBI", family, 0, 0, 0, _RT_TABLE_LOCAL, _RTPROT_BOOT, _RT_SCOPE_HOST, _RTN_LOCAL, 0)
    message += struct.pack("HHI", 8, _RTA_OIF, socket.if_nametoindex("lo"))
    head = struct.pack("IHHII", 16 + len(message), _RTM_NEWROUTE, _NLM_F_REQUEST_ACK_CREATE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(head + message)
        (error,) = struct.unpack_from("i", netlink.recv(4096), 16)
    if error:
        raise OSError(-error, os.strerror(-error))


def main(command: Sequence[str]) -> None:
    """Make this namespace such a world and become the command."""
    _raise_loopback()
    for family in (socket.AF_INET, socket.AF_INET6):
        _route_everything_here(family)
    os.execvp(command[0], [*command])  # nothing of ours is left to do here


if __name__ == "__main__":
    main(sys.argv[1:])
