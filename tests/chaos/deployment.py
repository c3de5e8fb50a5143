"""The service under test: its real processes, started again when they end, as any deployment would.

Everything here is called by the main thread: a process ends with the thread that started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  # a class in spite of its name
from pydantic import SecretStr
from redis import Redis

from deploy.bench.processes import tree
from deploy.local.credentials import SERVERS, Credentials
from deploy.local.postgres import PostgresServer, postgres_url
from deploy.local.processes import ChildProcess, Program
from deploy.local.programs import Part, product_parts
from deploy.local.servers import BUCKET, S3Server, Server, ValkeyServer, valkey_url
from migrations.upgrade import upgrade
from shared.settings import Settings
from tests.chaos.proxy import StoreProxy
from tests.chaos.receiver import Receiver
from tests.processes.worker_processes import as_environment
from tests.service_settings import SECRET_KEY

ANALYSIS_WORKERS = ("analysis_worker", "analysis_worker_2")
LEASE_SECONDS = 3.0
#: From a process's end to the start of the next: what a supervisor takes to notice.
_RESTART_SECONDS = 0.5
_START_SECONDS = 180.0
_BUSY_SECONDS = 1.0
#: Below those that the kernel gives to clients: none of them takes the port of a server that is down for a moment.
_PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Ended:
    """A process that ended."""

    name: str
    code: int
    """As `Popen.returncode`: negative is a signal."""
    stop_seconds: float | None
    """How long it took to end after it was told to (SIGTERM); None where it was not."""


@dataclass
class Member:
    """One process that is to be there always."""

    program: Program
    prepare: Callable[[], None]
    is_ready: Callable[[], bool]
    child: ChildProcess | None = None
    ended_at: float | None = None
    stopped_at: float | None = None
    held_down: bool = False

    @property
    def pid(self) -> int | None:
        """Of the living process."""
        return self.child.pid if self.child is not None and self.child.running else None

    def start(self) -> None:
        """Start a process."""
        self.prepare()
        self.child, self.ended_at, self.stopped_at = ChildProcess(self.program), None, None

    def look(self) -> Ended | None:
        """Return the end of the process the first time that it is seen to have ended."""
        if self.child is None or self.ended_at is not None or self.child.running:
            return None
        self.ended_at = time.monotonic()
        took = None if self.stopped_at is None else self.ended_at - self.stopped_at
        return Ended(self.program.name, self.child._process.returncode, took)

    @property
    def due(self) -> bool:
        """Whether it is time to start it again."""
        return self.ended_at is not None and not self.held_down and time.monotonic() > self.ended_at + _RESTART_SECONDS


class Deployment:
    """Servers, the way to the store, and the product's processes: two analysis workers and one of each other."""

    def __init__(self, folder: Path, seed: int) -> None:
        ports = steady_ports(5)
        self._credentials = Credentials(
            dict(zip(SERVERS, ports, strict=False)), "postgres-password", "valkey-password", "ACCESS", "secret", ""
        )
        self.receiver = Receiver()
        self.proxy = StoreProxy(ports[3], ports[2], seed)
        self.settings = self._settings(folder / "models", ports[3])
        self.direct = self.settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{ports[2]}"})
        self.api_url = f"http://127.0.0.1:{ports[4]}"
        self.logs = folder / "logs"
        self._servers = self._server_members(folder)
        self._product = {part.name: _member(part) for part in self._parts(folder, ports[4])}
        self._members = self._servers | self._product
        self.ended: list[Ended] = []

    def start(self) -> None:
        """Start everything and wait until it works."""
        for members in (self._servers, self._product):
            for member in members.values():
                member.start()
            for member in members.values():
                assert member.child is not None
                member.child.wait_until(member.is_ready, _START_SECONDS)
            if members is self._servers:
                upgrade(self.settings.database_url.get_secret_value())

    def tend(self) -> None:
        """Note what ended, start again what is due."""
        for member in self._members.values():
            ended = member.look()
            if ended is not None:
                self.ended.append(ended)
            if member.due:
                member.start()

    def ready(self, name: str) -> bool:
        """Whether this process runs and works; asked of a server or the API, so it can take some seconds."""
        member = self._members[name]
        return member.pid is not None and member.is_ready()

    @property
    def stopping(self) -> bool:
        """Whether a process was told to stop (SIGTERM) and has not ended yet."""
        return any(member.stopped_at is not None and member.ended_at is None for member in self._members.values())

    def close(self) -> None:
        """End all, frozen or not."""
        for member in reversed(self._members.values()):
            if member.child is not None and member.child.running:
                os.killpg(member.child.pid, signal.SIGKILL)
                member.child._process.wait()
        self.proxy.close()
        self.receiver.close()

    def pid(self, name: str) -> int | None:
        """Return the living process's id."""
        return self._members[name].pid

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Send a signal: SIGKILL to the process with all its children, as the end of a container does."""
        member = self._members[name]
        if member.pid is None or member.stopped_at is not None:
            return False
        if number is signal.SIGKILL:
            os.killpg(member.pid, number)
        else:
            os.kill(member.pid, number)
        if number is signal.SIGTERM:
            member.stopped_at = time.monotonic()
        return True

    def wait_busy(self, name: str) -> None:
        """Wait until this worker carries a job, not for long: an idle one has nothing to lose."""
        with (
            contextlib.suppress(psycopg2.Error),
            contextlib.closing(self.postgres()) as connection,
            connection.cursor() as cursor,
        ):
            connection.autocommit = True
            give_up_at = time.monotonic() + _BUSY_SECONDS
            while time.monotonic() < give_up_at:
                cursor.execute(
                    "SELECT FROM jobs WHERE state = 'running' AND worker LIKE %s LIMIT 1", (f"%:{self.pid(name)}",)
                )
                if cursor.rowcount:
                    return
                time.sleep(0.005)

    def freeze(self, name: str) -> bool:
        """Stop a process and its children where they stand."""
        pid = self._members[name].pid
        if pid is not None:
            os.killpg(pid, signal.SIGSTOP)
        return pid is not None

    def thaw(self, name: str) -> None:
        """Let them go on."""
        pid = self._members[name].pid
        if pid is not None:
            os.killpg(pid, signal.SIGCONT)

    def hold_down(self, name: str) -> None:
        """Do not start this again for now."""
        self._members[name].held_down = True

    def let_up(self, name: str) -> None:
        """Start it again."""
        self._members[name].held_down = False

    def kill_gunicorn_worker(self) -> bool:
        """Kill one of the processes that answer requests; return whether there was one."""
        pid = self._members["api"].pid
        children = [] if pid is None else tree(pid)[1:]
        if children:
            os.kill(children[0], signal.SIGKILL)
        return bool(children)

    def redis(self) -> Redis:
        """Return a client of Valkey."""
        return Redis.from_url(self.settings.redis_url.get_secret_value(), socket_timeout=2)

    def postgres(self) -> Connection:
        """Return a connection of our own."""
        url = self.settings.database_url.get_secret_value()
        return psycopg2.connect(url, connect_timeout=2, application_name="chaos", options="-c statement_timeout=10000")

    def _settings(self, models_dir: Path, proxy_port: int) -> Settings:
        from tests.tiny_model import NAME, write_model  # imports torch

        models_dir.mkdir()
        return Settings(
            database_url=SecretStr(postgres_url(self._credentials)),
            redis_url=SecretStr(valkey_url(self._credentials)),
            secret_key=SecretStr(SECRET_KEY),
            s3_endpoint=f"http://127.0.0.1:{proxy_port}",
            s3_access_key=SecretStr(self._credentials.s3_access_key),
            s3_secret_key=SecretStr(self._credentials.s3_secret_key),
            s3_bucket=BUCKET,
            model=NAME,
            models_dir=write_model(models_dir),
            device="cpu",
            max_batch=4,
            lease_seconds=LEASE_SECONDS,
            poll_seconds=1,
            egress_allow=(f"127.0.0.1:{self.receiver.port}",),
        )

    def _server_members(self, folder: Path) -> dict[str, Member]:
        servers: tuple[Server, ...] = (
            PostgresServer(folder, self.logs / "postgres.log"),
            ValkeyServer(folder, self.logs / "valkey.log"),
            S3Server(folder, self.logs / "s3.log"),
        )
        return {
            server.name: Member(
                server.program(self._credentials),
                partial(server.prepare, self._credentials),
                partial(server.is_ready, self._credentials),
            )
            for server in servers
        }

    def _parts(self, folder: Path, port: int) -> Iterator[Part]:
        environment = as_environment(self.settings)
        parts = product_parts(folder, port, environment, self.settings.slot_count)
        for part in parts:
            yield part
            if part.name == ANALYSIS_WORKERS[0]:
                yield _another(part, ANALYSIS_WORKERS[1], environment)


@contextmanager
def running(folder: Path, seed: int) -> Iterator[Deployment]:
    """Run a deployment until the block ends."""
    deployment = Deployment(folder, seed)
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.close()


def steady_ports(count: int) -> list[int]:
    """Return loopback ports that are free now, below those that clients get."""
    found: list[int] = []
    for port in _PORTS[os.getpid() % 1000 * 10 :]:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no ports are free")


def _member(part: Part) -> Member:
    return Member(part.program, part.prepare, part.is_ready)


def _another(part: Part, name: str, environment: Mapping[str, str]) -> Part:
    """Return a second process of a part, under a name of its own."""
    assert part.ready_file is not None
    ready_file = part.ready_file.with_stem(name)
    program = replace(
        part.program,
        name=name,
        command=[word.replace(part.name, name) for word in part.program.command],
        log=part.program.log.with_stem(name),
        environment={**environment, "DISTILDIRE_READY_FILE": str(ready_file)},
    )
    return replace(part, program=program, ready_file=ready_file)
