"""The API as gunicorn serves it, for tests of what the test client cannot show."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import httpx
import pytest

from shared.settings import Settings
from tests.support.ports import free_ports

#: The largest image that the server under test accepts.
LIMIT = 1_000_000


@dataclass(frozen=True)
class ApiServer:
    """A running gunicorn."""

    port: int
    process: subprocess.Popen[bytes]
    temporary: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def get(self, path: str, headers: Mapping[str, str]) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", headers=headers, trust_env=False, timeout=20)

    def post(self, path: str, headers: Mapping[str, str], **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", headers=headers, trust_env=False, timeout=20, **options)

    def log(self) -> str:
        return (self.temporary / "log").read_text()


@contextmanager
def serving(settings: Settings, folder: Path) -> Iterator[ApiServer]:
    """Run gunicorn as it is deployed until the block ends; its log and temporary files are in `folder`."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "gunicorn", "--config", "python:api.gunicorn_conf", "api.wsgi:app"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--bind", f"127.0.0.1:{port}"], env=_environment(settings, folder), stdout=log, stderr=log
        )
    running = ApiServer(port, process, folder)
    try:
        _wait_until_ready(running)
        yield running
    finally:
        process.kill()
        process.wait()


def _environment(settings: Settings, folder: Path) -> dict[str, str]:
    names = ("database_url", "redis_url", "secret_key", "s3_access_key", "s3_secret_key")
    secrets = {f"DISTILDIRE_{name.upper()}": getattr(settings, name).get_secret_value() for name in names}
    return {
        "PATH": os.environ["PATH"],
        "TMPDIR": str(folder),
        "DISTILDIRE_S3_ENDPOINT": settings.s3_endpoint,
        "DISTILDIRE_S3_BUCKET": settings.s3_bucket,
        "DISTILDIRE_MAX_UPLOAD_BYTES": str(LIMIT),
        **secrets,
    }


def _wait_until_ready(server: ApiServer) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.process.poll() is None, server.log()
        try:
            with urlopen(f"{server.url}/healthz", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("gunicorn did not answer")
