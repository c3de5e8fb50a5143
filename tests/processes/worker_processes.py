"""Real Celery processes for tests, and the database, store and broker as such a process sees them."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO
from uuid import UUID, uuid4

import httpx
from celery import Celery
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from shared.broker.celery_app import ANALYSIS_QUEUE, ANALYZE, Broker, make_celery
from shared.crypto import Vault
from shared.database.engine import Database
from shared.database.row_level_security import API_ROLE, WORKER_ROLE
from shared.database.tables import JobRow, Tenant
from shared.domain import PICTURES, JobOptions, NewJob
from shared.jobs import lifecycle
from shared.settings import Settings
from shared.storage.object_store import ObjectStore, source_key
from shared.tenants.api_keys import create_key
from tests.support.databases import as_role
from tests.support.ports import free_ports

#: Some seconds on an idle machine; importing torch takes a minute on a crowded one.
READY_SECONDS = 180.0
_ROOT = Path(__file__).parents[2]


@dataclass
class WorkerProcess:
    """One `celery worker` or `celery beat`."""

    process: subprocess.Popen[bytes]
    log: Path
    ready_file: Path

    def wait_ready(self) -> None:
        """Wait until the worker says that it is ready."""
        wait_until(lambda: self.ready_file.exists() or self.process.poll() is not None, READY_SECONDS, self.said)
        assert self.process.poll() is None, self.said()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, seconds: float = 40) -> int:
        """Wait for its end; return the exit status."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """Kill it, stopped or not, and wait."""
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        """What it logged."""
        return self.log.read_text()


@dataclass
class Workplace:
    """The servers of one test and the worker processes that it started on them."""

    settings: Settings
    folder: Path
    database: Database
    store: ObjectStore
    app: Celery
    tenant: UUID
    started: list[WorkerProcess] = field(default_factory=list)

    def start(
        self,
        *arguments: str,
        app: str = "worker.tasks",
        environment: Mapping[str, str] | None = None,
        ready: bool = True,
    ) -> WorkerProcess:
        """Start `celery -A app arguments…`; wait until it is ready."""
        name = f"process-{len(self.started)}"
        ready_file, log = self.folder / f"{name}.ready", self.folder / f"{name}.log"
        command = [sys.executable, "-m", "celery", "-A", app, *arguments]
        own = {"DISTILDIRE_READY_FILE": str(ready_file), **(environment or {})}
        with log.open("wb") as output:
            process = _spawn(command, os.environ | self._environment(WORKER_ROLE) | own, output)
        worker = WorkerProcess(process, log, ready_file)
        self.started.append(worker)
        if ready:
            worker.wait_ready()
        return worker

    def start_api(self, ready: str = "/readyz") -> str:
        """Start the API as it is deployed and wait until it answers at `ready`; return its URL."""
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "gunicorn", "--config", "python:api.gunicorn_conf", "api.wsgi:app"]
        log = self.folder / "api.log"
        with log.open("wb") as output:
            environment = os.environ | self._environment(API_ROLE) | {"DISTILDIRE_BIND": f"127.0.0.1:{port}"}
            process = _spawn(command, environment, output)
        self.started.append(WorkerProcess(process, log, self.folder / "never"))
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(f"{url}{ready}"), READY_SECONDS, self.said)
        return url

    def _environment(self, role: str) -> dict[str, str]:
        """The settings of a process that logs in as `role`; the test itself is the owner."""
        url = as_role(self.settings.database_url.get_secret_value(), role)
        return as_environment(self.settings) | {"DISTILDIRE_DATABASE_URL": url}

    def new_key(self, tenant: str = "tenant") -> str:
        """Return an API key of the workplace's tenant, or of another."""
        vault = Vault(self.settings.secret_key.get_secret_value())
        with self.database.begin() as session:
            return create_key(session, vault, tenant=tenant).key

    def start_analysis(self, **options: object) -> WorkerProcess:
        """Start an analysis worker."""
        return self.start("worker", "-Q", "analysis", "--without-mingle", "--without-gossip", **options)  # type: ignore[arg-type]  # as `start` takes them

    def start_gated(self, gate: Path) -> WorkerProcess:
        """Start an analysis worker whose device waits while the file `gate` is there; shut the gate first."""
        gate.touch()
        return self.start_analysis(app="tests.processes.gated_worker", environment={"TEST_GATE": str(gate)})

    def submit(
        self,
        data: bytes,
        *,
        pictures: Collection[str] = PICTURES,
        policy: str | None = None,
        stability: bool = False,
        flagged_only: bool = False,
        wake: bool = True,
    ) -> UUID:
        """Accept an image as the API does."""
        job_id = uuid4()
        key = source_key(self.tenant, job_id)
        self.store.put(key, io.BytesIO(data), len(data), "application/octet-stream")
        digest = hashlib.sha256(data).hexdigest()
        source = (key, digest, len(data), "image/png")
        options = JobOptions(pictures=tuple(pictures), policy=policy, stability=stability, flagged_only=flagged_only)
        new = NewJob(job_id, self.tenant, *source, options)
        with self.database.begin() as session:
            lifecycle.create(session, new, deadline=timedelta(hours=1))
        if wake:
            Broker(self.app).wake(ANALYSIS_QUEUE, ANALYZE, str(job_id))
        return job_id

    def job(self, job_id: UUID) -> JobRow:
        """Return a job's row, its result loaded."""
        with self.database.begin() as session:
            return session.scalars(select(JobRow).options(joinedload(JobRow.result)).where(JobRow.id == job_id)).one()

    def jobs(self) -> list[JobRow]:
        """Return every job, oldest first."""
        with self.database.begin() as session:
            return list(session.scalars(select(JobRow).options(joinedload(JobRow.result)).order_by(JobRow.created_at)))

    def wait_ended(self, job_id: UUID, seconds: float = 30) -> JobRow:
        """Wait until a job is terminal; return it."""
        wait_until(lambda: self.job(job_id).state.terminal, seconds, self.said)
        return self.job(job_id)

    def wait_all_ended(self, seconds: float) -> list[JobRow]:
        """Wait until every job is terminal; return them."""
        wait_until(lambda: all(job.state.terminal for job in self.jobs()), seconds, self.said)
        return self.jobs()

    def wait_stage(self, job_id: UUID, stage: str, seconds: float = 20) -> None:
        """Wait until a running job is said to be in `stage`."""
        wait_until(lambda: self.job(job_id).stage == stage, seconds, self.said)

    def redis(self) -> Redis:
        """A client of the broker's server."""
        return Redis.from_url(self.settings.redis_url.get_secret_value())

    def said(self) -> str:
        """What all processes logged."""
        return "\n".join(worker.said()[-4000:] for worker in self.started)

    def close(self) -> None:
        """Kill what still runs and let go of the servers."""
        for worker in self.started:
            worker.kill()
        self.app.close()
        self.database.close()


def open_workplace(settings: Settings, folder: Path) -> Workplace:
    """Return a workplace with one tenant and an empty queue."""
    database = Database(settings.database_url.get_secret_value())
    with database.begin() as session:
        tenant = Tenant(name="tenant")
        session.add(tenant)
    return Workplace(settings, folder, database, ObjectStore(settings), make_celery(settings), tenant.id)


def wait_until(condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = str) -> None:
    """Look until `condition` holds; fail after `seconds`, with what `explain` says."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s\n{explain()}"
        time.sleep(0.02)


def as_environment(settings: Settings) -> dict[str, str]:
    """Return settings as a process finds them."""
    fields = settings.model_dump(exclude_none=True)
    return {f"DISTILDIRE_{name.upper()}": _plain(value) for name, value in fields.items()} | {"OMP_NUM_THREADS": "1"}


def _plain(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _spawn(command: list[str], environment: Mapping[str, str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=output, stderr=output, start_new_session=True)
