"""Measures every process and server of a run again and again: memory, descriptors, threads, connections, leases."""

from __future__ import annotations

import contextlib
import csv
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psycopg2
import redis

from deploy.bench.processes import resident_bytes, tree
from shared.broker.celery_app import ANALYSIS_QUEUE, SWEEP_QUEUE, WEBHOOK_QUEUE
from tests.chaos.deployment import Deployment

_PERIOD = 10.0
_MIB = 1024**2
_COUNTS = {
    "connections": "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' "
    "AND application_name <> 'chaos'",
    "leases": "SELECT count(*) FROM jobs WHERE lease_until IS NOT NULL",
    "queued jobs": "SELECT count(*) FROM jobs WHERE state = 'queued'",
    "worker rows": "SELECT count(*) FROM workers",
}


class Series(NamedTuple):
    """What is measured, of whom. A process that is started again begins a series of its own."""

    of: str
    pid: int
    what: str


class Sampler:
    """A thread that samples every ten seconds and writes each sample to a file."""

    def __init__(self, deployment: Deployment, file: Path) -> None:
        self.series: Mapping[Series, list[tuple[float, float]]] = defaultdict(list)
        """Seconds since the start and value, in the order of time."""
        self._deployment = deployment
        self._file = file
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def close(self) -> None:
        """Sample no more."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        with self._file.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["seconds", "of", "pid", "what", "value"])
            while not self._closed.wait(_PERIOD):
                at = round(time.monotonic() - began, 1)
                for name, value in self._samples():
                    self.series[name].append((at, value))
                    rows.writerow([at, *name, value])
                file.flush()

    def _samples(self) -> Iterator[tuple[Series, float]]:
        for name, pid in self._deployment.pids.items():
            yield from _of_process(name, pid)
        with contextlib.suppress(psycopg2.Error):  # it is away, as it sometimes is in such runs
            yield from self._of_postgres()
        with contextlib.suppress(redis.RedisError):
            yield from self._of_valkey()

    def _of_postgres(self) -> Iterator[tuple[Series, float]]:
        with contextlib.closing(self._deployment.postgres()) as connection, connection.cursor() as cursor:
            for what, statement in _COUNTS.items():
                cursor.execute(statement)
                for (count,) in cursor.fetchall():
                    yield Series("PostgreSQL", 0, what), count

    def _of_valkey(self) -> Iterator[tuple[Series, float]]:
        with self._deployment.redis() as client:
            facts = client.info()
            yield Series("Valkey", 0, "clients"), facts["connected_clients"]
            yield Series("Valkey", 0, "data, MiB"), round(facts["used_memory"] / _MIB, 1)
            for queue in (ANALYSIS_QUEUE, WEBHOOK_QUEUE, SWEEP_QUEUE):
                yield Series("Valkey", 0, f"queue {queue}"), client.llen(queue)


def _of_process(name: str, pid: int) -> Iterator[tuple[Series, float]]:
    """The process with all its children; those that live for one image come and go."""
    processes = tree(pid)
    memory = resident_bytes(pid)
    if memory:  # else it has just ended
        yield Series(name, pid, "memory, MiB"), round(memory / _MIB, 1)
        yield Series(name, pid, "descriptors"), _entries(processes, "fd")
        yield Series(name, pid, "threads"), _entries(processes, "task")


def _entries(pids: Sequence[int], folder: str) -> int:
    count = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            count += len(os.listdir(f"/proc/{pid}/{folder}"))  # noqa: PTH208  # a count of names, nothing else
    return count
