"""The registered worker processes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    func,
)
from sqlalchemy.orm import Mapped, mapped_column

from shared.database.tables.base import Base
from shared.domain import Role, WorkerState


class WorkerRow(Base):
    """A process that works: written by itself at each beat, removed by itself at its end."""

    __tablename__ = "workers"
    __table_args__ = (
        CheckConstraint("role IN ('analysis', 'webhooks', 'beat')", name="workers_role"),
        CheckConstraint("state IN ('starting', 'ready', 'draining')", name="workers_state"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    """Unique for each process; `jobs.worker` holds it."""
    role: Mapped[Role]
    host: Mapped[str]
    pid: Mapped[int]
    pid_space: Mapped[str | None]
    """Processes with the same value can check whether this process lives."""
    pid_ticks: Mapped[int | None] = mapped_column(BigInteger)
    """When the process began, because process ids are reused."""
    version: Mapped[str]
    model: Mapped[str | None]
    device: Mapped[str | None]
    precision: Mapped[str | None]
    policies: Mapped[list[str]] = mapped_column(server_default="{}")
    slots: Mapped[int]
    busy: Mapped[int]
    state: Mapped[WorkerState]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.now())
