"""Reads the evidence when a run is over: every row, and every stored object, from the store itself."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from psycopg2.extensions import connection as Connection  # noqa: N812  # a class in spite of its name

from shared.errors import ObjectMissingError
from shared.storage.object_store import ObjectStore
from tests.chaos.deployment import Deployment
from tests.chaos.evidence import DeliveryFacts, Evidence, JobFacts, ResultFacts, StoredObject
from tests.chaos.history import History
from tests.chaos.observer import DIGEST, Observer

_READERS = 8


def gather(
    deployment: Deployment,
    history: History,
    observer: Observer,
    endpoints: Mapping[str, Collection[str]],
    incidents: Sequence[float],
) -> Evidence:
    """Return all that is known of the run."""
    accepted, observed = history.read()
    receipts = deployment.receiver.receipts()  # before the rows: what is still sent by then is in them
    observed += deployment.receiver.observed()
    with contextlib.closing(deployment.postgres()) as connection:
        jobs, results, deliveries = _jobs(connection), _results(connection), _deliveries(connection)
        ghosts = find_ghosts(connection, deployment.pids.values())
    keys = [row.source_key for row in jobs] + [each.key for row in results for each in row.artifacts]
    return Evidence(
        accepted=accepted,
        observed=observed,
        snapshots=list(observer.snapshots),
        jobs=jobs,
        results=results,
        stored=_stored(ObjectStore(deployment.direct), keys),
        endpoints=endpoints,
        deliveries=deliveries,
        receipts=receipts,
        incidents=incidents,
        ghosts=ghosts,
    )


def _jobs(connection: Connection) -> list[JobFacts]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT jobs.id::text, tenants.name, state, source_key, pictures, {DIGEST}, "
            "coalesce(error_code, ''), deaths, extract(epoch FROM jobs.created_at)::float8, "
            "coalesce(extract(epoch FROM finished_at)::float8, 'infinity') FROM jobs "
            "JOIN tenants ON tenants.id = tenant_id LEFT JOIN results ON results.job_id = jobs.id"
        )
        return [
            JobFacts(job, tenant, state, key, tuple(pictures), *rest)
            for job, tenant, state, key, pictures, *rest in cursor.fetchall()
        ]


def _results(connection: Connection) -> list[ResultFacts]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT job_id, artifacts FROM results")
        return [
            ResultFacts(str(job), tuple(StoredObject(name, it["key"], it["sha256"]) for name, it in artifacts.items()))
            for job, artifacts in cursor.fetchall()
        ]


def _deliveries(connection: Connection) -> list[DeliveryFacts]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT d.id, d.job_id, e.url, d.state FROM webhook_deliveries d "
            "JOIN webhook_endpoints e ON e.id = d.endpoint_id"
        )
        return [DeliveryFacts(f"msg_{key.hex}", str(job), url, state) for key, job, url, state in cursor.fetchall()]


def find_ghosts(connection: Connection, living: Collection[int]) -> list[str]:
    """Return the workers that the database shows and whose processes are not among the living."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM workers WHERE pid <> ALL(%s)", (list(living),))
        return [worker for (worker,) in cursor.fetchall()]


def _stored(store: ObjectStore, keys: Iterable[str]) -> dict[str, str]:
    def digest(key: str) -> tuple[str, str | None]:
        try:
            return key, hashlib.sha256(store.get(key)).hexdigest()
        except ObjectMissingError:
            return key, None

    with ThreadPoolExecutor(_READERS) as pool:
        return {key: found for key, found in pool.map(digest, keys) if found is not None}
