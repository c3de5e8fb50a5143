"""Ports that belong to this process until it ends, so that several runs of the tests share a machine."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from pathlib import Path
from typing import IO

_HOST = "127.0.0.1"
_FIRST = 10_000
_LAST_BY_DEFAULT = 32_767

#: The locks of the ports given away; the kernel opens them when this process ends.
_held: dict[int, IO[str]] = {}


def free_ports(count: int) -> list[int]:
    """Return `count` loopback ports on which nothing listens, and which no other run of the tests gets meanwhile.

    They lie below those that the kernel gives to clients, so none is taken by a connection that goes out.
    """
    found: list[int] = []
    ports = range(_FIRST, last_port() + 1)
    start = os.getpid() * 37 % len(ports)  # so that runs seldom ask for the same lock
    for port in (*ports[start:], *ports[:start]):
        if len(found) == count:
            return found
        if take(port):
            found.append(port)
    raise RuntimeError(f"of the ports {ports.start} to {ports.stop - 1} there are no {count} free ones")


def last_port() -> int:
    """Return the last port below those of clients; where these begin low, one of them: better than none."""
    first_of_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    return first_of_clients - 1 if first_of_clients > _FIRST + 1_000 else _LAST_BY_DEFAULT


def take(port: int) -> bool:
    """Lock a port for this process; False where another has it, or something listens there."""
    if port in _held:
        return False
    folder = Path(tempfile.gettempdir(), f"distildire-test-ports-{os.geteuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = (folder / str(port)).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        socket.create_server((_HOST, port)).close()
    except OSError:
        lock.close()
        return False
    _held[port] = lock
    return True
