"""`/metrics` for Prometheus: how requests went in all processes, and how work stands in PostgreSQL at this moment."""

from __future__ import annotations

import os
from collections.abc import Iterator

from apiflask import APIBlueprint
from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import text

from api.resources import resources
from shared.database import Database
from shared.errors import DatabaseUnavailableError
from shared.jobs import JobState

#: Where gunicorn's processes leave their numbers for each other (api/gunicorn_conf.py sets it).
_MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"

metrics_blueprint = APIBlueprint("metrics", __name__, enable_openapi=False)

_REQUESTS = Histogram(
    "distildire_http_request_seconds",
    "Time to answer a request, without the streaming of its body.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_REFUSED = Counter(
    "distildire_submissions_refused", "Submissions refused because too many jobs are open, by code.", ["code"]
)
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})

# Each reads no more than what waits, runs, or has just ended, from an index; never all jobs there ever were. The views
# show all tenants' rows, and of each only what is counted here.
_WAITING = text("SELECT count(*) FROM job_states WHERE state = 'queued'")
_RUNNING = text("SELECT count(*) FROM job_states WHERE state = 'running'")
_ENDED = text("SELECT state, count(*) FROM job_states WHERE finished_at > now() - interval '5 minutes' GROUP BY state")
_OLDEST = text("SELECT extract(epoch FROM now() - min(created_at)) FROM job_states WHERE state = 'queued'")
_DUE = text("SELECT count(*) FROM delivery_states WHERE state = 'pending' AND next_attempt_at <= now()")


def observe(method: str, route: str, status: int, seconds: float) -> None:
    """Count one answered request."""
    known = method if method in _METHODS else "other"  # a client must not be able to invent series
    _REQUESTS.labels(known, route, str(status)).observe(seconds)


def count_refusal(code: str) -> None:
    """Count one submission that was refused for want of room."""
    _REFUSED.labels(code).inc()


@metrics_blueprint.get("/metrics")
def metrics() -> Response:
    """Show sums over all tenants; no key is needed, so keep this address off the public side of the proxy."""
    work = CollectorRegistry()
    work.register(_Work(resources().database))
    return Response(generate_latest(_own_registry()) + generate_latest(work), content_type=CONTENT_TYPE_LATEST)


def _own_registry() -> CollectorRegistry:
    if _MULTIPROCESS_DIR not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # published without types
    return registry


class _Work(Collector):
    """What waits, as the database knows it: the same whichever process is asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
        jobs = GaugeMetricFamily("distildire_jobs", "Jobs that have not ended, by state.", labels=["state"])
        ended = GaugeMetricFamily(
            "distildire_jobs_ended_recently",
            "Jobs that ended within the last five minutes, by state.",
            labels=["state"],
        )
        oldest = GaugeMetricFamily("distildire_oldest_queued_job_seconds", "How long the oldest queued job has waited.")
        due = GaugeMetricFamily("distildire_webhook_deliveries_due", "Webhook tries that should have been made by now.")
        with self._database.begin() as session:
            jobs.add_metric([JobState.QUEUED], session.scalar(_WAITING) or 0)
            jobs.add_metric([JobState.RUNNING], session.scalar(_RUNNING) or 0)
            found = {JobState(state): number for state, number in session.execute(_ENDED)}
            oldest.add_metric([], float(session.scalar(_OLDEST) or 0))
            due.add_metric([], session.scalar(_DUE) or 0)
        for state in JobState:
            if state.terminal:
                ended.add_metric([state], found.get(state, 0))
        return [jobs, ended, oldest, due]
