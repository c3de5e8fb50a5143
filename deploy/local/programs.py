"""The product's own four processes, as the stack on one machine runs them.

Their settings go by the environment: a command line could be read by every user of the machine.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from deploy.local.processes import Program
from shared.wall import API_ROLE, WORKER_ROLE

HOST = "127.0.0.1"
_DATABASE_URL = "DISTILDIRE_DATABASE_URL"
_WEBHOOK_THREADS = 4  # they only ring; the deliveries have threads of their own
_READYZ_SECONDS = 2


@dataclass(frozen=True)
class Part:
    """A program, and how one sees that it does its work."""

    program: Program
    ready_file: Path | None = None  # appears when the process is ready; None: /readyz is asked
    url: str = ""

    @property
    def name(self) -> str:
        """The key of the process in stack.json."""
        return self.program.name

    def prepare(self) -> None:
        """Forget what an earlier process left."""
        if self.ready_file is not None:
            self.ready_file.parent.mkdir(parents=True, exist_ok=True)
            self.ready_file.unlink(missing_ok=True)

    def is_ready(self) -> bool:
        """Whether the process does its work now."""
        if self.ready_file is not None:
            return self.ready_file.exists()
        try:
            return httpx.get(f"{self.url}/readyz", timeout=_READYZ_SECONDS, trust_env=False).is_success
        except httpx.TransportError:
            return False


def product_parts(
    data_dir: Path, port: int, settings: Mapping[str, str], slots: int, databases: Mapping[str, str]
) -> tuple[Part, ...]:
    """The API, the two workers and the scheduler, in the order of their start.

    `databases` has the URL of the database for each role: none of them gets the owner's.
    """
    of_api = {**settings, _DATABASE_URL: databases[API_ROLE]}
    of_worker = {**settings, _DATABASE_URL: databases[WORKER_ROLE]}
    return (
        _api(data_dir, port, of_api),
        _worker("analysis_worker", "analysis", slots, data_dir, of_worker),
        _worker("webhook_worker", "webhooks,sweep", _WEBHOOK_THREADS, data_dir, of_worker),
        _beat(data_dir, of_worker),
    )


def _api(data_dir: Path, port: int, settings: Mapping[str, str]) -> Part:
    program = Program(
        name="api",
        command=[
            *(sys.executable, "-P", "-m", "gunicorn", "--config", "python:api.gunicorn_conf"),
            *("--bind", f"{HOST}:{port}", "api.wsgi:app"),
        ],
        log=data_dir / "logs" / "api.log",
        environment=dict(settings),
        death_signal=signal.SIGQUIT,  # ends its workers at once
        stop_seconds=40,  # uploads that are under way finish
    )
    return Part(program, url=f"http://{HOST}:{port}")


def _worker(name: str, queues: str, threads: int, data_dir: Path, settings: Mapping[str, str]) -> Part:
    ready_file = data_dir / "run" / f"{name}.ready"
    command = [*_celery(), "worker", "--pool", "threads", "--concurrency", str(threads), "-Q", queues]
    command += ["--hostname", f"{name}@%h", "--without-mingle", "--without-gossip", "--without-heartbeat"]
    program = Program(
        name=name,
        command=command,
        log=data_dir / "logs" / f"{name}.log",
        environment={**settings, "DISTILDIRE_READY_FILE": str(ready_file)},
        # A warm end could wait for a database that ends at the same time; a lease makes up for the lost work.
        death_signal=signal.SIGKILL,
        stop_seconds=40,
    )
    return Part(program, ready_file)


def _beat(data_dir: Path, settings: Mapping[str, str]) -> Part:
    ready_file = data_dir / "run" / "beat.ready"
    program = Program(
        name="beat",
        # The schedule is code and each tick may be lost: there is nothing to keep in a file.
        command=[*_celery(), "beat", "--scheduler", "celery.beat:Scheduler", "--pidfile", ""],
        log=data_dir / "logs" / "beat.log",
        environment={**settings, "DISTILDIRE_READY_FILE": str(ready_file)},
        death_signal=signal.SIGKILL,
    )
    return Part(program, ready_file)


def _celery() -> list[str]:
    return [sys.executable, "-P", "-m", "celery", "-A", "worker.tasks"]
