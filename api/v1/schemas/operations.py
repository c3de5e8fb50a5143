"""Workers, and how the service itself is."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from api.v1.schemas.base import Document
from shared.domain import Role, WorkerState


class Worker(Document):
    """A process that works."""

    id: str
    role: Role
    state: WorkerState
    host: str
    pid: int
    version: str
    model: str | None = Field(description="What it runs; null for those that run none.")
    device: str | None
    precision: str | None
    policies: list[str] = Field(description="The names of those that it can call verdicts by.")
    slots: int = Field(description="How many jobs, or webhooks, it can run at once.")
    busy: int = Field(description="How many it runs now.")
    started_at: datetime
    heartbeat_at: datetime = Field(description="When it was last heard of: once a second while all is well.")
    silent_seconds: float = Field(description="How long ago that was.")


class WorkerList(Document):
    """Every process that works, and those that have been silent for less than ten minutes."""

    items: list[Worker]


class Alive(Document):
    """The process answers."""

    status: Literal["alive"]


class Check(Document):
    """How one server is."""

    state: Literal["up", "down"]
    required: bool = Field(description="Whether requests are refused while it is down.")


class Checks(Document):
    """Each server that the API uses."""

    database: Check
    object_store: Check
    redis: Check


class Readiness(Document):
    """Whether requests can be served."""

    status: Literal["ready", "unavailable"]
    checks: Checks
