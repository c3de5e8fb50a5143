"""The service under test: its real processes, started again when they end, as any deployment would.

Everything here is called by the main thread: a process ends with the thread that started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  # a class in spite of its name
from pydantic import SecretStr
from redis import Redis

from deploy.bench.processes import tree
from deploy.local.credentials import SERVERS, load_credentials
from deploy.local.postgres import PostgresServer, postgres_url, role_passwords, role_urls
from deploy.local.programs import StackProcess, stack_processes
from deploy.local.servers import BUCKET, EmbeddedServer, S3Server, ValkeyServer, valkey_url
from migrations.upgrade import prepare_roles, upgrade
from shared.settings import Settings
from tests.chaos import supervised
from tests.chaos.crash_points import FOLDER
from tests.chaos.disks import Disk, mounted
from tests.chaos.proxy import StoreProxy
from tests.chaos.receiver import Receiver
from tests.chaos.supervised import Ended, SupervisedProcess
from tests.processes.worker_processes import as_environment
from tests.support.pgbouncer import PROGRAM, running_pgbouncer
from tests.support.ports import free_ports
from tests.support.service_settings import SECRET_KEY

ANALYSIS_WORKERS = ("analysis_worker", "analysis_worker_2")
SERVERS_WITH_DISKS = ("postgres", "valkey", "s3")
_START_SECONDS = 180.0
_BUSY_SECONDS = 1.0
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Clocks:
    """How long the service waits before it acts by itself."""

    lease_seconds: float
    poll_seconds: float


#: So short that a run shows many recoveries.
QUICK = Clocks(lease_seconds=3, poll_seconds=1)
#: The product's own.
DEFAULT = Clocks(*(Settings.model_fields[name].default for name in ("lease_seconds", "poll_seconds")))


class Deployment:
    """Servers, the way to the store, and the product's processes: two analysis workers and one of each other.

    Of the two the first has policies. Where PgBouncer is installed, they reach PostgreSQL through it.
    """

    def __init__(self, folder: Path, seed: int, disks: Mapping[str, Disk], clocks: Clocks) -> None:
        ports = free_ports(6)
        self._pooled = PROGRAM is not None
        self._credentials = replace(load_credentials(folder), ports=dict(zip(SERVERS, ports, strict=False)))
        self.receiver = Receiver()
        self.proxy = StoreProxy(ports[3], ports[2], seed)
        self.settings = self._settings(folder / "models", ports[3], clocks)
        self.direct = self.settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{ports[2]}"})
        self.api_url = f"http://127.0.0.1:{ports[4]}"
        self.logs, self.crash_requests = folder / "logs", folder / "crash_requests"
        self._temporary = folder / "tmp"
        for made in (self.crash_requests, self._temporary):
            made.mkdir()
        self.disks = disks
        self._servers = self._supervised_servers(folder)
        self._between = ExitStack()
        self._pooler_port = ports[5]
        self._product = {
            process.name: SupervisedProcess.of(process) for process in self._stack_processes(folder, ports[4])
        }
        self._processes = self._servers | self._product
        self.ended: list[Ended] = []
        self.frozen: list[float] = []
        """When a worker was frozen, by the clock of the epoch."""
        self.news = threading.Event()
        """Set whenever a process has ended."""

    def start(self) -> None:
        """Start everything and wait until it works."""
        for group in (self._servers, self._product):
            for process in group.values():
                process.start()
            for process in group.values():
                assert process.child is not None
                process.child.wait_until(process.is_ready, _START_SECONDS)
            if group is self._servers:
                upgrade(self.settings.database_url.get_secret_value())
                passwords = role_passwords(self._credentials)
                prepare_roles(self.settings.database_url.get_secret_value(), passwords)
                self._start_pooler(passwords)

    def _start_pooler(self, passwords: Mapping[str, str]) -> None:
        if self._pooled:
            server_port = self._credentials.ports["postgres"]
            pooler = running_pgbouncer(self._temporary, self._pooler_port, server_port, passwords, connections=20)
            self._between.enter_context(pooler)

    def restart_ended(self) -> None:
        """Note what ended, start again what is due."""
        for process in self._processes.values():
            ended = process.look()
            if ended is not None:
                no_other_ready = not any(self.ready(name) for name in ANALYSIS_WORKERS if name != ended.name)
                self.ended.append(replace(ended, no_other_ready=no_other_ready))
                self.news.set()
            if process.due:
                process.start()

    def ready(self, name: str) -> bool:
        """Whether this process runs and works; asked of a server or the API, so it can take some seconds."""
        process = self._processes[name]
        return process.pid is not None and process.is_ready()

    @property
    def pids(self) -> dict[str, int]:
        """The processes that live, by name."""
        return {name: process.pid for name, process in self._processes.items() if process.pid is not None}

    @property
    def stopping(self) -> bool:
        """Whether a process was told to stop (SIGTERM) and has not ended yet."""
        return any(process.stopped_at is not None and process.ended_at is None for process in self._processes.values())

    def close(self) -> None:
        """End all, frozen or not."""
        for process in reversed(self._processes.values()):
            if process.child is not None and process.child.running:
                os.killpg(process.child.pid, signal.SIGKILL)
                process.child.wait()
        self._between.close()
        self.proxy.close()
        self.receiver.close()

    def pid(self, name: str) -> int | None:
        """Return the living process's id."""
        return self._processes[name].pid

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Send a signal: SIGKILL to the process with all its children, as the end of a container does."""
        process = self._processes[name]
        if process.pid is None or process.stopped_at is not None:
            return False
        if number is signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
        if number is signal.SIGTERM:
            process.stopped_at = time.monotonic()
        return True

    def wait_busy(self, name: str) -> bool:
        """Wait until this worker carries a job, not for long; return whether it may die now.

        It may not with a job that already died as often as a job can: one death more would rightly end that one.
        """
        last, give_up_at = self.settings.max_attempts - 1, time.monotonic() + _BUSY_SECONDS
        try:
            with contextlib.closing(self.postgres()) as connection, connection.cursor() as cursor:
                connection.autocommit = True
                while True:
                    cursor.execute(
                        "SELECT max(deaths) FROM jobs WHERE state = 'running' AND worker LIKE %s",
                        (f"%:{self.pid(name)}",),
                    )
                    deaths = (cursor.fetchone() or (None,))[0]
                    if deaths is not None and deaths < last:
                        return True
                    if time.monotonic() > give_up_at:
                        return deaths is None  # an idle one may die, too
                    time.sleep(0.005)
        except psycopg2.Error:
            return True  # PostgreSQL is away

    def freeze(self, name: str) -> bool:
        """Stop a process and its children where they stand."""
        pid = self._processes[name].pid
        if pid is not None:
            os.killpg(pid, signal.SIGSTOP)
            self.frozen += [time.time()] if name in ANALYSIS_WORKERS else []
        return pid is not None

    def thaw(self, name: str) -> None:
        """Let them go on."""
        pid = self._processes[name].pid
        if pid is not None:
            os.killpg(pid, signal.SIGCONT)

    def keep_stopped(self, name: str) -> None:
        """Do not start this again for now."""
        self._processes[name].kept_stopped += 1

    def allow_start(self, name: str) -> None:
        """Start it again, if nobody else holds it down."""
        self._processes[name].kept_stopped -= 1

    def kill_gunicorn_worker(self) -> bool:
        """Kill one of the processes that answer requests; return whether there was one."""
        pid = self._processes["api"].pid
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

    def _settings(self, models_dir: Path, proxy_port: int, clocks: Clocks) -> Settings:
        from tests.support.tiny_model import NAME, write_model  # imports torch
        from tests.support.tiny_policy import write_tiny_policies

        models_dir.mkdir()
        written = write_model(models_dir)
        write_tiny_policies(written)
        return Settings(
            database_url=SecretStr(postgres_url(self._credentials)),
            redis_url=SecretStr(valkey_url(self._credentials)),
            secret_key=SecretStr(SECRET_KEY),
            s3_endpoint=f"http://127.0.0.1:{proxy_port}",
            s3_access_key=SecretStr(self._credentials.s3_access_key),
            s3_secret_key=SecretStr(self._credentials.s3_secret_key),
            s3_bucket=BUCKET,
            model=NAME,
            models_dir=written,
            device="cpu",
            max_batch=4,
            lease_seconds=clocks.lease_seconds,
            poll_seconds=clocks.poll_seconds,
            egress_allow=(f"127.0.0.1:{self.receiver.port}",),
        )

    def _without_policies(self, models_dir: Path) -> dict[str, str]:
        """Return what a worker's environment needs so that it has the model and none of its policies."""
        from tests.support.tiny_model import write_model  # imports torch

        models_dir.mkdir()
        return {"DISTILDIRE_MODELS_DIR": str(write_model(models_dir))}

    def _supervised_servers(self, folder: Path) -> dict[str, SupervisedProcess]:
        homes = {name: self.disks[name].folder if name in self.disks else folder for name in SERVERS_WITH_DISKS}
        servers: tuple[EmbeddedServer, ...] = (
            PostgresServer(homes["postgres"], self.logs / "postgres.log"),
            ValkeyServer(homes["valkey"], self.logs / "valkey.log"),
            S3Server(homes["s3"], self.logs / "s3.log"),
        )
        return {
            server.name: SupervisedProcess(
                server.program(self._credentials),
                partial(server.prepare, self._credentials),
                partial(server.is_ready, self._credentials),
            )
            for server in servers
        }

    def _stack_processes(self, folder: Path, port: int) -> Iterator[StackProcess]:
        environment = as_environment(self.settings)
        environment |= {FOLDER: str(self.crash_requests), "PYTHONPATH": str(_ROOT), "TMPDIR": str(self._temporary)}
        postgres_port = self._pooler_port if self._pooled else self._credentials.ports["postgres"]
        ports = {**self._credentials.ports, "postgres": postgres_port}
        databases = role_urls(replace(self._credentials, ports=ports))
        for process in stack_processes(folder, port, environment, databases):
            if process.name == "api":
                yield supervised.running(process, "tests.chaos.crashing_api_server", instead_of="api")
            elif process.name == ANALYSIS_WORKERS[0]:
                crashing = supervised.running(process, "tests.chaos.crashing_worker", instead_of="worker")
                yield crashing
                yield supervised.another(crashing, ANALYSIS_WORKERS[1], self._without_policies(folder / "plain_models"))
            else:
                yield process


@contextmanager
def running(folder: Path, seed: int, clocks: Clocks = QUICK) -> Iterator[Deployment]:
    """Run a deployment until the block ends."""
    with mounted(folder / "disks", SERVERS_WITH_DISKS) as disks:
        deployment = Deployment(folder, seed, disks, clocks)
        try:
            deployment.start()
            yield deployment
        finally:
            deployment.close()
