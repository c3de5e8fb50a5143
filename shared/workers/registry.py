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

#: A worker that was not heard of for so long is no longer shown; its jobs have gone elsewhere long before.
_FORGOTTEN_AFTER = timedelta(minutes=10)
#: What a worker has is counted on for so long after it was heard of; it beats every second.
_COUNTED_ON = timedelta(seconds=10)

_END_LEASES = text("""
UPDATE jobs SET lease_until = now()
WHERE id IN (SELECT id FROM running_jobs WHERE worker = ANY (:buried)) AND lease_until > now()
""")
_UNSERVED = statement("shared.workers", "unserved_policies")


@dataclass(frozen=True)
class WorkerIdentity:
    """One process, that no other can be taken for."""

    id: str
    """As `jobs.worker` names it: host, some random characters, process id."""
    role: Role
    host: str
    pid: int
    pid_space: str | None
    """Equal for processes to which a process id means the same; None where that is not known."""
    pid_ticks: int | None
    """When the process began, since ids are used again."""
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
    """What a worker says of itself at each beat."""

    state: WorkerState
    slots: int = 0
    """So many jobs, or webhooks, it can hold at once."""
    busy: int = 0
    """So many it holds."""
    model: str | None = None
    device: str | None = None
    precision: str | None = None
    policies: Sequence[str] = ()
    """The names of those that it can call verdicts by."""


def beat(database: Database, worker: WorkerIdentity, status: WorkerStatus, *, age: timedelta) -> None:
    """Write that `worker`, which began `age` ago, lives, and its status."""
    now = asdict(status) | {"policies": list(status.policies)}
    row = insert(WorkerRow).values(**asdict(worker), **now, started_at=func.now() - age)
    with database.begin() as session:
        session.execute(text("SET LOCAL synchronous_commit = off"))  # the next beat says it again
        session.execute(
            row.on_conflict_do_update(index_elements=["id"], set_={**now, "heartbeat_at": func.now()}),
        )


def expire_leases_of_dead_workers(database: Database, judge: WorkerIdentity) -> list[str]:
    """End the leases of workers of this host that are certainly dead, so that the next sweep queues their jobs again.

    Only who sees the same process ids may judge; one that is frozen lives. Were a judgement wrong all the same, its
    jobs would run twice and end once: leases are fenced.

    Returns:
        The workers' ids, each once, whoever looks.

    """
    if judge.pid_space is None:
        return []
    with database.begin() as session:
        neighbours = session.execute(
            select(WorkerRow.id, WorkerRow.pid, WorkerRow.pid_ticks).where(
                WorkerRow.host == judge.host, WorkerRow.pid_space == judge.pid_space, WorkerRow.id != judge.id
            )
        )
        gone = [name for name, pid, ticks in neighbours if ticks is not None and procfs.is_gone(pid, ticks)]
        if not gone:
            return []
        buried = list(session.scalars(delete(WorkerRow).where(WorkerRow.id.in_(gone)).returning(WorkerRow.id)))
        session.execute(_END_LEASES, {"buried": buried})
    return buried


def leave(database: Database, worker: WorkerIdentity) -> None:
    """Take a worker off the list that ends in order."""
    with database.begin() as session:
        session.execute(delete(WorkerRow).where(WorkerRow.id == worker.id))


def forget_silent(database: Database) -> None:
    """Take those off the list that were not heard of for long: their machine is gone, or cannot reach us."""
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
    """Whether a ready worker that runs `model` has the policy; None where none is there that could say.

    One is enough: the others leave such jobs to it (`claiming.claim`). A fleet of several number formats has policies
    for each.
    """
    ready = (
        WorkerRow.role == Role.ANALYSIS,
        WorkerRow.state == WorkerState.READY,
        WorkerRow.model == model,
        WorkerRow.heartbeat_at > func.now() - _COUNTED_ON,
    )
    return session.scalar(select(func.bool_or(WorkerRow.policies.any_() == policy)).where(*ready))


def unserved_policies(database: Database) -> set[tuple[str | None, str]]:
    """Return the policies of what waits that no ready worker has, with the model asked for, where any is ready."""
    with database.begin() as session:
        rows = session.execute(_UNSERVED, {"counted_on": _COUNTED_ON})
        return {(model or None, policy) for model, policy in rows}


def slots_of(database: Database, role: Role) -> int:
    """Return how much all ready workers of a role can hold at once."""
    ready = (
        WorkerRow.role == role,
        WorkerRow.state == WorkerState.READY,
        WorkerRow.heartbeat_at > func.now() - _COUNTED_ON,
    )
    with database.begin() as session:
        return session.scalar(select(func.sum(WorkerRow.slots)).where(*ready)) or 0
