"""`/metrics` for Prometheus: the requests of all processes, and the work that PostgreSQL has at this moment."""

from __future__ import annotations

import os
from collections import Counter as Counts
from collections.abc import Iterator

from apiflask import APIBlueprint
from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from api.dependencies import resources
from shared.database.engine import Database
from shared.database.tables import WorkerRow
from shared.domain import (
    JobState,
    Role,
    WorkerState,
)
from shared.errors import DatabaseUnavailableError
from shared.jobs.retention import backlog
from shared.jobs.stats import oldest_snapshot, service_stats
from shared.workers.registry import list_workers

#: The folder in which the API's processes share their metrics; api/gunicorn_conf.py sets it.
_MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"

metrics_blueprint = APIBlueprint("metrics", __name__, enable_openapi=False)
_HEARD_SECONDS = 10  # a worker says every second that it lives


@metrics_blueprint.get("/metrics")
def metrics() -> Response:
    """Show sums over all tenants; no key is needed, so keep this address off the public side of the proxy."""
    work = CollectorRegistry()
    work.register(_Work(resources().database, retention_days=resources().settings.retention_days))
    return Response(generate_latest(_own_registry()) + generate_latest(work), content_type=CONTENT_TYPE_LATEST)


def _own_registry() -> CollectorRegistry:
    if _MULTIPROCESS_DIR not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # published without types
    return registry


class _Work(Collector):
    """The work in the database. It is the same whichever process is asked."""

    def __init__(self, database: Database, *, retention_days: int | None) -> None:
        self._database = database
        self._retention_days = retention_days

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("distildire_database_up", "1 when PostgreSQL answers.")
        try:
            families = self._read()
        except DatabaseUnavailableError:
            families = []
        up.add_metric([], float(bool(families)))
        yield up
        yield from families

    def _read(self) -> list[Metric]:
        with self._database.begin() as session:
            now, processes, snapshot = service_stats(session), list_workers(session), oldest_snapshot(session)
            left = backlog(session, days=self._retention_days)
        jobs = GaugeMetricFamily("distildire_jobs", "Jobs that have not ended, by state.", labels=["state"])
        jobs.add_metric([JobState.QUEUED], now.queued)
        jobs.add_metric([JobState.RUNNING], now.running)
        ended = GaugeMetricFamily(
            "distildire_jobs_ended_recently",
            "Jobs that ended within the last five minutes, by state.",
            labels=["state"],
        )
        for state, number in now.ended.items():
            ended.add_metric([state], number)
        oldest = GaugeMetricFamily(
            "distildire_oldest_queued_job_seconds",
            "How long the oldest queued job has waited.",
            now.oldest_queued_seconds or 0.0,
        )
        due = GaugeMetricFamily(
            "distildire_webhook_deliveries_due", "Webhook tries that should have been made by now.", now.webhooks_due
        )
        held = GaugeMetricFamily(
            "distildire_oldest_snapshot_seconds",
            "For how long a transaction has kept PostgreSQL from removing rows that have gone.",
            snapshot.seconds if snapshot else 0.0,
        )
        tidying = GaugeMetricFamily(
            "distildire_housekeeping_backlog",
            "Jobs past their retention, and deleted jobs whose bytes are still stored; each counted up to 10,000.",
            labels=["what"],
        )
        tidying.add_metric(["jobs"], left.jobs)
        tidying.add_metric(["erasures"], left.erasures)
        return [jobs, ended, oldest, due, held, tidying, *_workers(processes)]


def _workers(processes: list[tuple[WorkerRow, float]]) -> list[Metric]:
    number = GaugeMetricFamily(
        "distildire_workers", "Processes that work, by role and state.", labels=["role", "state"]
    )
    silence = GaugeMetricFamily(
        "distildire_worker_silence_seconds",
        "How long the most silent worker was not heard of, by role.",
        labels=["role"],
    )
    ready = GaugeMetricFamily(
        "distildire_workers_ready",
        f"Processes that are ready and were heard of within {_HEARD_SECONDS} seconds, by role.",
        labels=["role"],
    )
    silent = {role: [seconds for worker, seconds in processes if worker.role == role] for role in Role}
    counts = Counts((worker.role, worker.state) for worker, _ in processes)
    for role in Role:
        silence.add_metric([role], max(silent[role], default=0.0))
        heard = [worker for worker, seconds in processes if worker.role == role and seconds < _HEARD_SECONDS]
        ready.add_metric([role], sum(worker.state == WorkerState.READY for worker in heard))
        for state in WorkerState:
            number.add_metric([role, state], counts[role, state])
    return [number, ready, silence]
