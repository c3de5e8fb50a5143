"""The ports and passwords of the stack in one data directory: made once, kept, never shown."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

_FILE = "credentials.json"
_HOST = "127.0.0.1"
SERVERS = ("postgres", "valkey", "s3")


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


def load_credentials(data_dir: Path) -> Credentials:
    """Read the credentials of `data_dir`; make and keep them the first time."""
    path = data_dir / _FILE
    kept = json.loads(path.read_text()) if path.exists() else {}
    credentials = replace(_new(), **kept)
    if kept != asdict(credentials):  # also where an older release made the file, which knew fewer
        _keep(credentials, path)
    return credentials


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
    _keep(moved, data_dir / _FILE)
    return moved


def _keep(credentials: Credentials, path: Path) -> None:
    write_private(path, json.dumps(asdict(credentials), indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all, readable by its owner alone (mode 0600)."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def free_ports(count: int) -> Sequence[int]:
    """Return `count` different loopback ports on which nothing listens now."""
    sockets = [socket.create_server((_HOST, 0)) for _ in range(count)]  # held together, hence different
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
