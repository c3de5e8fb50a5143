"""The list of workers on a real PostgreSQL: who is on it, and what the death of one does to its jobs."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, update

from shared.database.engine import Database
from shared.database.tables import JobRow, Tenant, WorkerRow
from shared.domain import (
    AttemptId,
    NewJob,
    Role,
    WorkerState,
)
from shared.jobs import claiming, lifecycle, sweeping
from shared.workers import procfs, registry
from shared.workers.registry import WorkerIdentity, WorkerStatus

READY = WorkerStatus(WorkerState.READY, slots=4, busy=1, model="M", device="cpu", precision="fp32")
LEASE = timedelta(minutes=5)


@pytest.fixture
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this host."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def identity_of(process: subprocess.Popen[bytes]) -> WorkerIdentity:
    ours = WorkerIdentity.of_this_process(Role.ANALYSIS)
    return replace(ours, id=f"neighbour:{process.pid}", pid=process.pid, pid_ticks=procfs.start_ticks(process.pid))


def appear(database: Database, worker: WorkerIdentity, status: WorkerStatus = READY) -> None:
    registry.beat(database, worker, status, age=timedelta(seconds=7))


def listed(database: Database) -> list[WorkerRow]:
    with database.begin() as session:
        return [worker for worker, _ in registry.list_workers(session)]


def carried_by(database: Database, worker: WorkerIdentity) -> UUID:
    """A job that this worker carries."""
    with database.begin() as session:
        tenant = Tenant(name=str(uuid4()))
        session.add(tenant)
        session.flush()
        lifecycle.create(
            session, NewJob(uuid4(), tenant.id, "source", "00" * 32, 5, "image/png"), deadline=timedelta(hours=1)
        )
    job = claiming.claim(database, worker=worker.id, model="M", lease=LEASE)
    assert job is not None
    return job.id


def lease_has_ended(database: Database, job_id: UUID) -> bool:
    with database.begin() as session:
        return bool(session.scalar(select(JobRow.lease_until < func.now()).where(JobRow.id == job_id)))


def test_a_worker_is_on_the_list_from_its_first_beat_to_its_leave(database: Database):
    me = WorkerIdentity.of_this_process(Role.ANALYSIS)
    appear(database, me, WorkerStatus(WorkerState.STARTING))
    appear(database, me)
    (row,) = listed(database)
    assert (row.id, row.role, row.host, row.pid, row.version) == (me.id, "analysis", me.host, me.pid, me.version)
    assert (row.state, row.slots, row.busy) == ("ready", 4, 1)
    assert (row.model, row.device, row.precision) == ("M", "cpu", "fp32")
    assert timedelta(seconds=6.9) < row.heartbeat_at - row.started_at < timedelta(seconds=9)
    registry.leave(database, me)
    assert listed(database) == []


def test_jobs_of_a_dead_neighbour_are_free_at_once_and_it_is_told_of_once(
    database: Database, neighbour: subprocess.Popen[bytes]
):
    me, other = WorkerIdentity.of_this_process(Role.WEBHOOKS), identity_of(neighbour)
    appear(database, me)
    appear(database, other)
    mine, its = carried_by(database, me), carried_by(database, other)
    neighbour.kill()
    neighbour.wait()
    assert registry.expire_leases_of_dead_workers(database, me) == [other.id]
    assert registry.expire_leases_of_dead_workers(database, me) == []
    assert [row.id for row in listed(database)] == [me.id]
    assert lease_has_ended(database, its)
    assert not lease_has_ended(database, mine)
    report = sweeping.sweep(database, max_attempts=3)
    assert report is not None
    assert report.released == 1


def test_a_living_or_frozen_neighbour_keeps_its_jobs(database: Database, neighbour: subprocess.Popen[bytes]):
    me, other = WorkerIdentity.of_this_process(Role.ANALYSIS), identity_of(neighbour)
    appear(database, other)
    job_id = carried_by(database, other)
    assert registry.expire_leases_of_dead_workers(database, me) == []
    neighbour.send_signal(signal.SIGSTOP)
    assert registry.expire_leases_of_dead_workers(database, me) == []
    assert not lease_has_ended(database, job_id)
    assert len(listed(database)) == 1


@pytest.mark.parametrize("unknown", [{"pid_space": "elsewhere"}, {"pid_space": None}, {"host": "other"}])
def test_who_does_not_see_the_same_processes_judges_none(
    database: Database, neighbour: subprocess.Popen[bytes], unknown: dict[str, str | None]
):
    other = replace(identity_of(neighbour), **unknown)  # type: ignore[arg-type]  # the fields are text
    appear(database, other)
    job_id = carried_by(database, other)
    neighbour.kill()
    neighbour.wait()
    me = WorkerIdentity.of_this_process(Role.ANALYSIS)
    assert registry.expire_leases_of_dead_workers(database, me) == []
    assert registry.expire_leases_of_dead_workers(database, replace(me, pid_space=None)) == []
    assert not lease_has_ended(database, job_id)


def test_a_process_that_got_the_id_of_a_dead_one_does_not_keep_its_jobs(
    database: Database, neighbour: subprocess.Popen[bytes]
):
    ticks = procfs.start_ticks(neighbour.pid)
    assert ticks is not None
    appear(database, replace(identity_of(neighbour), pid_ticks=ticks - 100))
    assert len(registry.expire_leases_of_dead_workers(database, WorkerIdentity.of_this_process(Role.ANALYSIS))) == 1


def test_who_was_silent_for_long_is_forgotten_and_comes_back_with_its_next_beat(database: Database):
    me = WorkerIdentity.of_this_process(Role.ANALYSIS)
    appear(database, me)
    registry.forget_silent(database)
    assert len(listed(database)) == 1
    with database.begin() as session:
        session.execute(update(WorkerRow).values(heartbeat_at=func.now() - timedelta(minutes=11)))
    registry.forget_silent(database)
    assert listed(database) == []
    appear(database, me)
    assert len(listed(database)) == 1


def test_what_a_claim_would_find_is_asked_without_claiming(database: Database):
    me = WorkerIdentity.of_this_process(Role.ANALYSIS)
    assert not claiming.anything_waits(database, worker="w", model="M", lease=timedelta(seconds=30))
    job_id = carried_by(database, me)
    assert not claiming.anything_waits(database, worker="w", model="M", lease=timedelta(seconds=30))
    lifecycle.release(database, [AttemptId(job_id, 1)])
    assert claiming.anything_waits(database, worker="w", model="M", lease=timedelta(seconds=30))
    with database.begin() as session:
        job = session.get_one(JobRow, job_id)
        assert (job.state, job.attempt) == ("queued", 1)
        job.model = "M"
    assert claiming.anything_waits(database, worker="w", model="M", lease=timedelta(seconds=30))
    with database.begin() as session:
        session.get_one(JobRow, job_id).model = "ANOTHER"
    assert not claiming.anything_waits(database, worker="w", model="M", lease=timedelta(seconds=30))
