"""The list of workers as the operator sees it, and the sums over it in the metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import func, update

from api.v1.schemas.operations import WorkerList
from shared.database.tables import WorkerRow
from shared.domain import Role, WorkerState
from shared.workers import registry
from shared.workers.registry import WorkerIdentity, WorkerStatus
from tests.support.api_world import ApiWorld


@pytest.fixture
def worker(api: ApiWorld) -> Iterator[WorkerIdentity]:
    """A worker that is at work."""
    identity = WorkerIdentity.of_this_process(Role.ANALYSIS)
    status = WorkerStatus(WorkerState.READY, slots=4, busy=2, model="M", device="cuda", precision="bf16")
    registry.beat(api.around.database, identity, status, age=timedelta(seconds=60))
    yield identity
    registry.leave(api.around.database, identity)


def test_the_operator_sees_who_works(api: ApiWorld, worker: WorkerIdentity) -> None:
    document = api.operator.get("/v1/workers").json
    WorkerList.model_validate(document)
    (item,) = document["items"]
    assert (item["id"], item["role"], item["state"]) == (worker.id, "analysis", "ready")
    assert (item["host"], item["pid"]) == (worker.host, os.getpid())
    assert (item["model"], item["device"], item["precision"], item["slots"], item["busy"]) == (
        "M",
        "cuda",
        "bf16",
        4,
        2,
    )
    assert 0 <= item["silent_seconds"] < 30


@pytest.mark.usefixtures("worker")
def test_metrics_count_workers_and_tell_the_longest_silence(api: ApiWorld) -> None:
    told = api.anonymous.get("/metrics").text
    assert 'distildire_workers{role="analysis",state="ready"} 1.0' in told
    assert 'distildire_workers{role="analysis",state="draining"} 0.0' in told
    assert 'distildire_worker_silence_seconds{role="analysis"}' in told
    assert 'distildire_worker_silence_seconds{role="beat"} 0.0' in told
    assert 'distildire_workers_ready{role="analysis"} 1.0' in told


@pytest.mark.usefixtures("worker")
def test_a_worker_that_fell_silent_counts_no_longer_as_ready(api: ApiWorld) -> None:
    with api.around.database.begin() as session:
        session.execute(update(WorkerRow).values(heartbeat_at=func.now() - timedelta(seconds=11)))
    told = api.anonymous.get("/metrics").text
    assert 'distildire_workers_ready{role="analysis"} 0.0' in told
    assert 'distildire_workers{role="analysis",state="ready"} 1.0' in told


@pytest.mark.usefixtures("worker")
def test_a_clock_that_is_ahead_makes_no_silence_of_less_than_nothing(api: ApiWorld) -> None:
    with api.around.database.begin() as session:
        session.execute(update(WorkerRow).values(heartbeat_at=func.now() + timedelta(seconds=2)))
    (item,) = api.operator.get("/v1/workers").json["items"]
    assert str(item["silent_seconds"]) == "0.0"
