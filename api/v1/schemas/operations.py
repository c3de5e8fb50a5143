"""Workers, health and readiness."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from api.v1.schemas.base import Document
from shared.domain import Role, WorkerState


class Worker(Document):
    """A worker process."""

    id: str
    role: Role
    state: WorkerState
    host: str
    pid: int
    version: str
    model: str | None = Field(description="The model that it runs; null if it runs none.")
    device: str | None
    precision: str | None
    policies: list[str] = Field(description="The names of the policies that it can apply.")
    slots: int = Field(description="How many jobs or webhooks it can run at once.")
    busy: int = Field(description="How many it runs now.")
    started_at: datetime
    heartbeat_at: datetime = Field(
        description="The time of its last heartbeat. A healthy worker sends one every second."
    )
    silent_seconds: float = Field(description="Seconds since its last heartbeat.")


class WorkerList(Document):
    """All worker processes whose last heartbeat is less than ten minutes old."""

    items: list[Worker]


class Alive(Document):
    """The process answers."""

    status: Literal["alive"]


class Check(Document):
    """The state of one server."""

    state: Literal["up", "down"]
    required: bool = Field(description="Whether the API refuses requests while it is down.")


class Checks(Document):
    """The servers that the API uses."""

    database: Check
    object_store: Check
    redis: Check


class Readiness(Document):
    """Whether the API can serve requests."""

    status: Literal["ready", "unavailable"]
    checks: Checks
