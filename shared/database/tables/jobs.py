"""Jobs, their results, and the stored bytes that must be erased after a job is deleted."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    SmallInteger,
    desc,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from shared.database.tables.base import Base
from shared.domain import JobState

_STATES = ", ".join(f"'{state}'" for state in JobState)


class JobRow(Base):
    """An accepted image and where it stands."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="jobs_state"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="jobs_lease_only_while_running"),
        CheckConstraint(
            "(finished_at IS NOT NULL) = (state NOT IN ('queued', 'running'))", name="jobs_finished_only_when_terminal"
        ),
        # The queue, lane by lane (`tally_lanes`). No other index has this order, so PostgreSQL cannot choose one that
        # also reads ended rows. No index is on lease_until, so that a heartbeat is a heap-only update.
        Index(
            "jobs_lane",
            "tenant_id",
            "priority",
            text("(attempt > 0)"),
            "suspect",
            text("coalesce(model, '')"),
            text("coalesce(policy, '')"),
            "created_at",
            text("(id::text)"),
            postgresql_where=text("state = 'queued'"),
        ),
        Index("jobs_deadline", "deadline_at", postgresql_where=text("state IN ('queued', 'running')")),
        Index("jobs_list", "tenant_id", desc("created_at"), desc("id")),
        Index("jobs_list_by_state", "tenant_id", "state", desc("created_at"), desc("id")),
        Index("jobs_retention", "tenant_id", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        Index(
            "jobs_list_by_error",
            "tenant_id",
            "error_code",
            desc("created_at"),
            desc("id"),
            postgresql_where=text("error_code IS NOT NULL"),
        ),
        Index(
            "jobs_list_by_prediction",
            "tenant_id",
            "prediction",
            desc("created_at"),
            desc("id"),
            postgresql_where=text("prediction IS NOT NULL"),
        ),
        Index(
            "jobs_list_by_client_ref",
            "tenant_id",
            "client_ref",
            desc("created_at"),
            desc("id"),
            postgresql_where=text("client_ref IS NOT NULL"),
        ),
        Index("jobs_replays", "replay_of", postgresql_where=text("replay_of IS NOT NULL")),
        Index(
            "jobs_idempotency",
            "tenant_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    state: Mapped[JobState] = mapped_column(server_default=JobState.QUEUED)
    stage: Mapped[str | None]
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    attempt: Mapped[int] = mapped_column(server_default="0")
    #: Its last worker died while it held the job, so the job must run isolated.
    suspect: Mapped[bool] = mapped_column(server_default=text("false"))
    #: Its worker holds no other job.
    isolated: Mapped[bool] = mapped_column("alone", server_default=text("false"))
    #: How many workers died while they held this job and no other.
    deaths: Mapped[int] = mapped_column(server_default="0")
    worker: Mapped[str | None]
    #: The worker whose device could not classify it; others try first.
    failed_on: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    #: The last heartbeat of its worker.
    beat_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deadline_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    model: Mapped[str | None]
    policy: Mapped[str | None]
    stability: Mapped[bool] = mapped_column(server_default=text("false"))
    pictures: Mapped[list[str]]
    #: Whether the pictures are drawn only if the verdict is not REAL.
    flagged_only: Mapped[bool] = mapped_column(server_default=text("false"))
    client_metadata: Mapped[dict[str, Any]] = mapped_column("metadata")
    client_ref: Mapped[str | None]
    declared: Mapped[str | None]
    deadline_seconds: Mapped[int | None]
    #: The result's prediction, for lists; null until the job has succeeded. The trigger `jobs_prediction` writes it.
    prediction: Mapped[str | None]
    source_key: Mapped[str]
    source_sha256: Mapped[str]
    source_bytes: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    error_retryable: Mapped[bool | None]
    idempotency_key: Mapped[str | None]
    #: The API key that submitted it; null for jobs that older versions accepted.
    key_id: Mapped[UUID | None]
    replay_of: Mapped[UUID | None]

    result: Mapped[ResultRow | None] = relationship(back_populates="job", lazy="raise")


class ResultRow(Base):
    """A succeeded job's verdict: written once, in the transaction that ends the job."""

    __tablename__ = "results"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int]
    prediction: Mapped[str]
    confidence: Mapped[float]
    probability_fake: Mapped[float]
    raw_probability_fake: Mapped[float | None]
    """Before the policy's calibration; null in rows that older versions wrote."""
    threshold: Mapped[float]
    policy: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    stability: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    processing_time: Mapped[float]
    width: Mapped[int]
    height: Mapped[int]
    analyzed_region: Mapped[dict[str, Any]]
    media_type: Mapped[str]
    file_format: Mapped[str | None]
    jpeg_quality: Mapped[int | None] = mapped_column(SmallInteger)
    model_name: Mapped[str]
    weights_sha256: Mapped[str]
    demonstration: Mapped[bool]
    device: Mapped[str | None]
    precision: Mapped[str | None]
    device_seconds: Mapped[float | None]
    """Null in rows that older versions wrote."""
    timings: Mapped[dict[str, Any]]
    caveats: Mapped[list[str]]
    feature_mean: Mapped[bytes]
    feature_height: Mapped[int] = mapped_column(SmallInteger)
    feature_width: Mapped[int] = mapped_column(SmallInteger)
    artifacts: Mapped[dict[str, Any]]

    job: Mapped[JobRow] = relationship(back_populates="result", lazy="raise")


class Erasure(Base):
    """A deleted job whose bytes must be erased; written in the transaction that deletes the job's row."""

    __tablename__ = "erasures"

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    attempts: Mapped[int | None]
    """How many attempts may have stored something; null in rows that older versions wrote."""
    due_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class BucketWalk(Base):
    """The progress of the search for objects that no row refers to, and when it continues. The table has one row."""

    __tablename__ = "bucket_walk"
    __table_args__ = (CheckConstraint('"only"', name="bucket_walk_only"),)

    only: Mapped[bool] = mapped_column(primary_key=True, server_default="true")
    after_key: Mapped[str] = mapped_column(server_default="")
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())
