"""The service that hostile files are sent to: its real API and analysis worker with their default settings."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from pydantic import SecretStr

from deploy.bench.processes import resident_bytes, tree
from deploy.local.services import LocalServices
from tests.processes.worker_processes import Workplace, open_workplace
from tests.support.databases import fresh_database, migrated_template
from tests.support.service_settings import settings_for

TENANTS = ("one", "two")
_SAMPLE_SECONDS = 0.05
_COMPLAINTS = 10


@dataclass
class MemoryGauge:
    """Watches what a process and all its descendants hold."""

    pid: int
    at_rest: int = 0
    most: int = 0
    samples: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look until told to end."""
        self.at_rest = self.most = resident_bytes(self.pid)
        while not self._ended.wait(_SAMPLE_SECONDS):
            self.most = max(self.most, resident_bytes(self.pid))
            self.samples += 1

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch during the block."""
        thread = threading.Thread(target=self.watch)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()


@dataclass
class ServiceUnderTest:
    """A running API and analysis worker."""

    place: Workplace
    url: str
    worker_pid: int

    @contextmanager
    def client(self, tenant: str) -> Iterator[httpx.Client]:
        """A client with a key of this tenant's."""
        headers = {"Authorization": f"Bearer {self.place.new_key(tenant)}"}
        with httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30) as client:
            yield client

    def pillow(self) -> str:
        """Which Pillow decodes here: the folder that the worker's processes have its library from."""
        maps = Path("/proc", str(tree(self.worker_pid)[-1]), "maps").read_text()
        return next(line.split()[-1] for line in maps.splitlines() if "/PIL/_imaging." in line)

    def ended(self) -> list[str]:
        """The processes that ended, though nobody ended them."""
        return [process.log.stem for process in self.place.started if process.process.poll() is not None]

    def complaints(self) -> list[str]:
        """The first lines of the logs that tell of a mistake of ours, or of a process of a worker that ended."""
        words = ("Traceback (most", '"level": "error"', "unexpected_error", "attempt_failed", "WorkerLostError")
        lines = (line for process in self.place.started for line in process.said().splitlines())
        found = [line[:300] for line in lines if any(word in line for word in words)]
        return found[:_COMPLAINTS]


@contextmanager
def running(folder: Path) -> Iterator[ServiceUnderTest]:
    """Start the service and its servers in `folder`; end them with the block."""
    with LocalServices(folder / "services") as local:
        urls = local.start()
        database = fresh_database(urls.database_url, migrated_template(urls.database_url))
        place = open_workplace(settings_for(urls, database_url=SecretStr(database)), folder)
        try:
            url = place.start_api()
            worker = place.start_analysis()
            yield ServiceUnderTest(place, url, worker.process.pid)
        finally:
            place.close()
