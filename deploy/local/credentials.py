"""The ports and passwords of the stack in one data directory: made once, kept, never shown."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deploy.local.processes import StackError
from deploy.local.state_files import read_if_whole, write_private

_FILE, _COPY = "credentials.json", "credentials.copy.json"
_HOST = "127.0.0.1"
SERVERS = ("postgres", "valkey", "s3")

#: Called with a sentence: what was damaged, and what was done about it.
Notice = Callable[[str], None]


@dataclass(frozen=True)
class Credentials:
    """What a restart must find again. The file is readable by its owner alone."""

    ports: Mapping[str, int]  # by the server's name
    postgres_password: str  # of the owner, who sees everything
    api_password: str  # of the roles in PostgreSQL that the processes log in as
    worker_password: str
    valkey_password: str
    s3_access_key: str
    s3_secret_key: str
    secret_key: str  # DISTILDIRE_SECRET_KEY of the processes


def load_credentials(data_dir: Path, notice: Notice = lambda _: None) -> Credentials:
    """Read the credentials of `data_dir`; make and keep them the first time. `notice` is called with what was damaged.

    Raises:
        StackError: they are lost, and with them the way to the data that is there.
    """
    kept = _kept(data_dir, notice)
    credentials = replace(_new(), **kept)
    for name in (_FILE, _COPY):
        if _read(data_dir / name) != asdict(credentials):  # an older release knew fewer, and kept no copy
            _keep(credentials, data_dir / name)
    return credentials


def _kept(data_dir: Path, notice: Notice) -> dict[str, Any]:
    """What the file says, or its copy where it is damaged; nothing where there is no stack yet."""
    if (found := _read(data_dir / _FILE)) is not None:
        return found
    if (found := _read(data_dir / _COPY)) is not None:
        notice(f"{_FILE} was damaged or gone; it is restored from its copy.")
        return found
    if (data_dir / _FILE).exists() or (data_dir / "postgres").exists():
        raise StackError(
            f"{data_dir / _FILE} and its copy are damaged or gone. They hold the passwords and the key to the data "
            f"beside them. Put one back from a backup; or move {data_dir} away, and `distildire up` starts without it."
        )
    return {}


def _read(path: Path) -> dict[str, Any] | None:
    return read_if_whole(path, _fields)


def _fields(content: Any) -> dict[str, Any]:
    """What such a file says; raise `TypeError`, `KeyError` or `ValueError` for what it never says."""
    given = replace(_new(), **content)
    texts = [value for name, value in asdict(given).items() if name != "ports"]
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError
    if not all(isinstance(given.ports[server], int) for server in SERVERS):
        raise ValueError
    return dict(content)


def _new() -> Credentials:
    return Credentials(
        ports=dict(zip(SERVERS, free_ports(len(SERVERS)), strict=True)),
        postgres_password=secrets.token_urlsafe(24),
        api_password=secrets.token_urlsafe(24),
        worker_password=secrets.token_urlsafe(24),
        valkey_password=secrets.token_urlsafe(24),
        s3_access_key=secrets.token_hex(10).upper(),
        s3_secret_key=secrets.token_urlsafe(30),
        secret_key=secrets.token_urlsafe(48),
    )


def move_port(credentials: Credentials, server: str, data_dir: Path) -> Credentials:
    """Return, and keep in `data_dir`, these credentials with a new free port for `server`."""
    moved = replace(credentials, ports={**credentials.ports, server: free_ports(1)[0]})
    for name in (_FILE, _COPY):
        _keep(moved, data_dir / name)
    return moved


def _keep(credentials: Credentials, path: Path) -> None:
    write_private(path, json.dumps(asdict(credentials), indent=2) + "\n")


def free_ports(count: int) -> Sequence[int]:
    """Return `count` different loopback ports on which nothing listens now."""
    sockets = [socket.create_server((_HOST, 0)) for _ in range(count)]  # all open at once, so all different
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback `port` now."""
    try:
        socket.create_server((_HOST, port)).close()
    except OSError:
        return False
    return True
