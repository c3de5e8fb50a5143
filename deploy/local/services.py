"""PostgreSQL, Valkey and an S3 server from pip packages, on free loopback ports, for one machine and for tests.

Nothing else of the product knows of these: it gets the same URLs and keys that production sets to real servers.
A data directory holds `postgres/`, `valkey/`, `s3/`, `logs/`, `credentials.json` (ports and passwords, kept) and
`processes.json`; it belongs to one owner at a time, who holds `owner.lock`. If the owner is killed, the kernel
ends its servers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from deploy.local.credentials import Credentials, Notice, is_free, load_credentials, move_port
from deploy.local.postgres import PostgresServer, postgres_url
from deploy.local.process_identity import identity_of
from deploy.local.process_registry import FileLock, ProcessRegistry, identities
from deploy.local.processes import ChildProcess, ProcessEndedError, StackError
from deploy.local.servers import BUCKET, EmbeddedServer, S3Server, ValkeyServer, valkey_url
from deploy.local.state_files import DamagedError, read_damageable, remove_drafts

_READY_SECONDS = 60
_TRIES = 3
#: Files that a stack rewrites whenever it comes up.
_REBUILT: Mapping[str, Callable[[Any], object]] = {
    "processes.json": identities,
    "supervisor.json": identity_of,
    "stack.json": lambda content: content["pids"],
}
#: PostgreSQL keeps names of its files in 1,024 bytes, its own part of them included.
_LONGEST_PATH = 900


@dataclass(frozen=True)
class ServiceUrls:
    """How to reach the three servers."""

    database_url: str  # postgresql://user:password@127.0.0.1:port/distildire
    redis_url: str  # redis://:password@127.0.0.1:port/0
    s3_endpoint: str  # http://127.0.0.1:port
    s3_access_key: str
    s3_secret_key: str
    s3_bucket: str


class LocalServices:
    """The three servers of one data directory."""

    def __init__(
        self,
        data_dir: Path,
        postgres_prefix: Sequence[str] | None = None,
        *,
        notice: Notice = lambda _: None,
    ) -> None:
        """`postgres_prefix` replaces what drops root's rights for PostgreSQL (found by itself if None).

        `notice` is called with a sentence about each damage: what it was, and what was done.
        """
        self._notice = notice
        self.data_dir = data_dir.resolve()
        logs = self.data_dir / "logs"
        self._servers: tuple[EmbeddedServer, ...] = (
            PostgresServer(self.data_dir, logs / "postgres.log", postgres_prefix),
            ValkeyServer(self.data_dir, logs / "valkey.log"),
            S3Server(self.data_dir, logs / "s3.log"),
        )
        self._lock = FileLock(self.data_dir / "owner.lock")
        self._registry = ProcessRegistry(self.data_dir)
        self._credentials: Credentials | None = None
        self.children: dict[str, ChildProcess] = {}

    @property
    def owned(self) -> bool:
        """Whether this object owns the data directory."""
        return self._lock.held

    def claim(self) -> Credentials:
        """Become the owner of the data directory, ending what a killed owner left; return its credentials.

        Raises:
            DataDirInUseError: it has a living owner.
        """
        if self._credentials is None:
            _check_path_length(self.data_dir)
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire()
            try:
                self._credentials = self._take_over()
            except BaseException:
                self._lock.release()
                raise
        return self._credentials

    def _take_over(self) -> Credentials:
        remove_drafts(self.data_dir)
        for name, parse in _REBUILT.items():
            try:
                read_damageable(self.data_dir / name, parse)
            except DamagedError:
                self._notice(f"{name} was damaged, as by a power cut; it is written again.")
        self._registry.end_leftovers()
        return load_credentials(self.data_dir, self._notice)

    def start(self) -> ServiceUrls:
        """Start those servers that do not run, wait until each answers, and return how to reach them.

        Call it from the main thread: the servers end with the thread that started them.

        Raises:
            DataDirInUseError: another process owns the data directory.
            StackError: a server ended or did not answer; the message has the last lines of its log.
        """
        self.claim()
        missing = [server for server in self._servers if not self.is_running(server.name)]
        try:
            for server in missing:
                self._spawn(server)
            for server in missing:
                self._wait_until_ready(server)
        except BaseException:
            for server in missing:
                self._stop(server.name)
            raise
        return self.urls

    def stop(self) -> None:
        """Stop the servers cleanly and let go of the data directory; harmless when nothing runs."""
        for server in reversed(self._servers):
            self._stop(server.name)
        self._credentials = None
        self._lock.release()

    def is_running(self, name: str) -> bool:
        """Whether the server `name` was started and has not ended."""
        return name in self.children and self.children[name].running

    @property
    def urls(self) -> ServiceUrls:
        """How to reach the servers."""
        credentials = self.claim()
        return ServiceUrls(
            database_url=postgres_url(credentials),
            redis_url=valkey_url(credentials),
            s3_endpoint=f"http://127.0.0.1:{credentials.ports['s3']}",
            s3_access_key=credentials.s3_access_key,
            s3_secret_key=credentials.s3_secret_key,
            s3_bucket=BUCKET,
        )

    def _spawn(self, server: EmbeddedServer) -> None:
        credentials = self.claim()
        if not is_free(credentials.ports[server.name]):  # somebody took it while the server was down
            credentials = move_port(credentials, server.name, self.data_dir)
            self._credentials = credentials
        server.prepare(credentials)
        child = ChildProcess(server.program(credentials))
        self.children[server.name] = child
        self._registry.record(server.name, child.identity)

    def _wait_until_ready(self, server: EmbeddedServer) -> None:
        """Wait for the server; try again if it ended at once, since its port can be lost between look and use."""
        for last in (*(False,) * (_TRIES - 1), True):
            try:
                self.children[server.name].wait_until(lambda: server.is_ready(self.claim()), _READY_SECONDS)
            except ProcessEndedError as ended:
                if last:
                    raise
                if word := server.repair(str(ended)):
                    self._notice(word)
                self._spawn(server)
            else:
                return

    def _stop(self, name: str) -> None:
        child = self.children.pop(name, None)
        if child is not None:
            child.stop()
            self._registry.forget(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _check_path_length(data_dir: Path) -> None:
    length = len(os.fsencode(data_dir))
    if length > _LONGEST_PATH:
        raise StackError(
            f"The path of the data directory has {length} bytes, and PostgreSQL takes {_LONGEST_PATH} at most. "
            "Choose a shorter --data-dir."
        )
