"""The SQL of workers: who runs where and in which state, and what is done for those that have died."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.metadata import version
from typing import Self

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.database.engine import Database
from shared.database.statements import statement
from shared.database.tables import WorkerRow
from shared.domain import Role, WorkerState
from shared.workers import procfs

#: A worker whose last heartbeat is older than this is removed; its jobs went to other workers long before.
_FORGOTTEN_AFTER = timedelta(minutes=10)
#: A worker counts as ready for this long after its last heartbeat. It sends one every second.
_COUNTED_ON = timedelta(seconds=10)

_END_LEASES = text("""
UPDATE jobs SET lease_until = now()
WHERE id IN (SELECT id FROM running_jobs WHERE worker = ANY (:buried)) AND lease_until > now()
""")
_UNSERVED = statement("shared.workers", "unserved_policies")


@dataclass(frozen=True)
class WorkerIdentity:
    """The unique identity of one process."""

    id: str
    """As `jobs.worker` names it: host, some random characters, process id."""
    role: Role
    host: str
    pid: int
    pid_space: str | None
    """Equal for processes to which a process id means the same; None if that is unknown."""
    pid_ticks: int | None
    """When the process began, because process ids are reused."""
    version: str

    @classmethod
    def of_this_process(cls, role: Role) -> Self:
        """Return a new identity of the calling process."""
        host, pid = socket.gethostname(), os.getpid()
        return cls(
            f"{host}:{secrets.token_hex(4)}:{pid}",
            role,
            host,
            pid,
            procfs.pid_space(),
            procfs.start_ticks(pid),
            version("distildire"),
        )


@dataclass(frozen=True)
class WorkerStatus:
    """What a worker reports about itself at each heartbeat."""

    state: WorkerState
    slots: int = 0
    """The number of jobs, or webhooks, that it can hold at once."""
    busy: int = 0
    """The number that it holds now."""
    model: str | None = None
    device: str | None = None
    precision: str | None = None
    policies: Sequence[str] = ()
    """The names of the policies that it can decide verdicts with."""


def beat(database: Database, worker: WorkerIdentity, status: WorkerStatus, *, age: timedelta) -> None:
    """Write that `worker`, which began `age` ago, lives, and its status."""
    now = asdict(status) | {"policies": list(status.policies)}
    row = insert(WorkerRow).values(**asdict(worker), **now, started_at=func.now() - age)
    with database.begin() as session:
        session.execute(text("SET LOCAL synchronous_commit = off"))  # the next heartbeat repeats it
        session.execute(
            row.on_conflict_do_update(index_elements=["id"], set_={**now, "heartbeat_at": func.now()}),
        )


def expire_leases_of_dead_workers(database: Database, observer: WorkerIdentity) -> list[str]:
    """End the leases of workers of this host that are certainly dead, so that the next sweep queues their jobs again.

    `observer` checks only workers that see the same process ids as it does; a frozen process counts as alive. If a
    check were wrong all the same, jobs would run twice but end once, because leases are fenced.

    Returns:
        The ids of the dead workers. Each is returned once, even if several processes look.

    """
    if observer.pid_space is None:
        return []
    with database.begin() as session:
        neighbours = session.execute(
            select(WorkerRow.id, WorkerRow.pid, WorkerRow.pid_ticks).where(
                WorkerRow.host == observer.host, WorkerRow.pid_space == observer.pid_space, WorkerRow.id != observer.id
            )
        )
        gone = [name for name, pid, ticks in neighbours if ticks is not None and procfs.is_gone(pid, ticks)]
        if not gone:
            return []
        buried = list(session.scalars(delete(WorkerRow).where(WorkerRow.id.in_(gone)).returning(WorkerRow.id)))
        session.execute(_END_LEASES, {"buried": buried})
    return buried


def leave(database: Database, worker: WorkerIdentity) -> None:
    """Remove a worker that shuts down normally from the registry."""
    with database.begin() as session:
        session.execute(delete(WorkerRow).where(WorkerRow.id == worker.id))


def forget_silent(database: Database) -> None:
    """Remove workers without a recent heartbeat: their machine is gone, or cannot reach the database."""
    with database.begin() as session:
        session.execute(delete(WorkerRow).where(WorkerRow.heartbeat_at < func.now() - _FORGOTTEN_AFTER))


def list_workers(session: Session) -> list[tuple[WorkerRow, float]]:
    """Return every worker with the seconds since it was heard of; by role, host and age."""
    silence = func.extract("epoch", func.now() - WorkerRow.heartbeat_at)
    rows = session.execute(
        select(WorkerRow, silence).order_by(WorkerRow.role, WorkerRow.host, WorkerRow.started_at, WorkerRow.id)
    )
    return [(worker, float(seconds)) for worker, seconds in rows]


def policy_is_served(session: Session, policy: str, model: str) -> bool | None:
    """Whether any ready worker that runs `model` has the policy; None if no worker with the model is ready.

    One worker is enough: the others leave such jobs to it (`claiming.claim`). Workers with different number formats
    have different policies.
    """
    ready = (
        WorkerRow.role == Role.ANALYSIS,
        WorkerRow.state == WorkerState.READY,
        WorkerRow.model == model,
        WorkerRow.heartbeat_at > func.now() - _COUNTED_ON,
    )
    return session.scalar(select(func.bool_or(WorkerRow.policies.any_() == policy)).where(*ready))


def unserved_policies(database: Database) -> set[tuple[str | None, str]]:
    """Return (model, policy) of waiting jobs if a ready worker serves the model, but none has the policy."""
    with database.begin() as session:
        rows = session.execute(_UNSERVED, {"counted_on": _COUNTED_ON})
        return {(model or None, policy) for model, policy in rows}


def slots_of(database: Database, role: Role) -> int:
    """Return how many jobs or webhooks all ready workers of a role can hold at once."""
    ready = (
        WorkerRow.role == role,
        WorkerRow.state == WorkerState.READY,
        WorkerRow.heartbeat_at > func.now() - _COUNTED_ON,
    )
    with database.begin() as session:
        return session.scalar(select(func.sum(WorkerRow.slots)).where(*ready)) or 0
