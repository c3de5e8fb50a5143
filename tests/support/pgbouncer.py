"""PgBouncer in transaction mode before a database: after each transaction a connection may be another client's."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from os import environ, pathsep
from pathlib import Path

import pytest
from sqlalchemy import make_url

from deploy.local.postgres import rootless_prefix
from deploy.local.processes import ChildProcess, Program
from shared.database.row_level_security import API_ROLE, WORKER_ROLE
from tests.support.databases import ROLE_PASSWORD
from tests.support.ports import free_ports

#: The program; None where it is not installed.
PROGRAM = shutil.which("pgbouncer", path=f"{environ['PATH']}{pathsep}/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed (Debian: pgbouncer)")


@contextmanager
def behind_pgbouncer(folder: Path, url: str, *, connections: int = 2) -> Iterator[str]:
    """Yield a URL that leads to the database of `url` through PgBouncer, for its owner and for the roles.

    All clients of a user share so many `connections` to the server.
    """
    server = make_url(url)
    (port,) = free_ports(1)
    passwords = {str(server.username): str(server.password), API_ROLE: ROLE_PASSWORD, WORKER_ROLE: ROLE_PASSWORD}
    with running_pgbouncer(folder, port, server.port or 5432, passwords, connections=connections):
        yield server.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)


@contextmanager
def running_pgbouncer(
    folder: Path, port: int, server_port: int, passwords: Mapping[str, str], *, connections: int
) -> Iterator[None]:
    """Run PgBouncer on `port` before the PostgreSQL on `server_port`, both of 127.0.0.1, until the block ends.

    It asks again each second for a server that was away. No startup parameter is ignored that it refuses by itself.
    """
    assert PROGRAM is not None
    users, configuration = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text("".join(f'"{user}" "{password}"\n' for user, password in passwords.items()))
    configuration.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server_port}\n"
        f"[pgbouncer]\npool_mode = transaction\ndefault_pool_size = {connections}\nmax_client_conn = 200\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {users}\nserver_login_retry = 1\n"
    )
    program = Program(
        name="pgbouncer",
        command=[PROGRAM, str(configuration)],
        log=folder / "pgbouncer.log",
        prefix=rootless_prefix(),
        stop_signal=signal.SIGINT,
        death_signal=signal.SIGKILL,
        stop_seconds=5,
    )
    child = ChildProcess(program)
    try:
        child.wait_until(lambda: _listens(port), seconds=20)
        yield
    finally:
        child.stop()


def _listens(port: int) -> bool:
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
