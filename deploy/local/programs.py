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
from shared.database.row_level_security import API_ROLE, WORKER_ROLE
from shared.settings import AnalysisSettings, CommonSettings, Settings, secrets_of

HOST = "127.0.0.1"
_DATABASE_URL = "DISTILDIRE_DATABASE_URL"
_READYZ_SECONDS = 2


@dataclass(frozen=True)
class StackProcess:
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


def stack_processes(
    data_dir: Path, port: int, environment: Mapping[str, str], databases: Mapping[str, str]
) -> tuple[StackProcess, ...]:
    """The API, the two workers and the scheduler, in the order of their start.

    Of the secrets in `environment` each gets its own. `databases` has the URL of the database for each role: none of
    them gets the owner's.
    """
    of_worker = {**environment, _DATABASE_URL: databases[WORKER_ROLE]}
    return (
        _api(data_dir, port, {**environment, _DATABASE_URL: databases[API_ROLE]}),
        _worker("analysis_worker", "analysis", data_dir, _with_secrets_of(AnalysisSettings, of_worker)),
        _worker("webhook_worker", "webhooks", data_dir, of_worker),
        _worker("beat", "beat", data_dir, _with_secrets_of(CommonSettings, of_worker)),
    )


def _with_secrets_of(kind: type[CommonSettings], environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out the secrets that processes with settings of this kind have no use for."""
    others = secrets_of(Settings) - secrets_of(kind)
    return {name: value for name, value in environment.items() if name not in others}


def _api(data_dir: Path, port: int, environment: Mapping[str, str]) -> StackProcess:
    program = Program(
        name="api",
        command=[sys.executable, "-P", "-m", "api"],
        log=data_dir / "logs" / "api.log",
        environment={**environment, "DISTILDIRE_BIND": f"{HOST}:{port}"},
        death_signal=signal.SIGQUIT,  # ends its workers at once
        stop_seconds=40,  # uploads that are under way finish
    )
    return StackProcess(program, url=f"http://{HOST}:{port}")


def _worker(name: str, role: str, data_dir: Path, environment: Mapping[str, str]) -> StackProcess:
    ready_file = data_dir / "run" / f"{name}.ready"
    program = Program(
        name=name,
        command=[sys.executable, "-P", "-m", "worker", role],
        log=data_dir / "logs" / f"{name}.log",
        environment={**environment, "DISTILDIRE_READY_FILE": str(ready_file)},
        # A warm end could wait for a database that ends at the same time; a lease makes up for the lost work.
        death_signal=signal.SIGKILL,
        stop_seconds=40,
    )
    return StackProcess(program, ready_file)
