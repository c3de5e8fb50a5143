"""The database's tables. Times are the database's own clock; states move in `lifecycle` and `claiming` only."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    desc,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from shared.domain import DeliveryState, JobState, Role, WorkerState

_Values = TypeVar("_Values", bound=StrEnum)
_STATES = ", ".join(f"'{state}'" for state in JobState)


class _Value(TypeDecorator[_Values]):
    """A value of an enumeration, stored as its text."""

    impl = Text
    cache_ok = True

    def __init__(self, values: type[_Values]) -> None:
        super().__init__()
        self.values = values

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002  # SQLAlchemy's
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> _Values | None:  # noqa: ARG002
        return None if value is None else self.values(value)


class Base(DeclarativeBase):
    """The metadata that Alembic compares with the database."""

    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads it from the class
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
        bytes: LargeBinary,
        JobState: _Value(JobState),
        DeliveryState: _Value(DeliveryState),
        Role: _Value(Role),
        WorkerState: _Value(WorkerState),
    }


class Tenant(Base):
    """A platform, or a part of one, that sees only its own jobs. Where a limit is null, that of the settings holds."""

    __tablename__ = "tenants"
    __table_args__ = (
        CheckConstraint("max_open_jobs >= 1", name="tenants_max_open_jobs"),
        CheckConstraint("retention_days >= 1", name="tenants_retention_days"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(unique=True)
    max_open_jobs: Mapped[int | None]
    retention_days: Mapped[int | None]
    policy: Mapped[str | None]
    """Calls the jobs that name none; null: the model's own threshold does."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Base):
    """A tenant's key. Only its keyed hash is here."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    hash: Mapped[bytes] = mapped_column(unique=True)
    hint: Mapped[str]
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    operator: Mapped[bool] = mapped_column(server_default="false")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revoked_at: Mapped[datetime | None]


class Job(Base):
    """An accepted image and where it stands."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="jobs_state"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="jobs_lease_only_while_running"),
        CheckConstraint(
            "(finished_at IS NOT NULL) = (state NOT IN ('queued', 'running'))", name="jobs_finished_only_when_terminal"
        ),
        # The queue, lane by lane (`tally_lanes`), in an order that no other index has: by another, rows that have ended
        # would be read. None is on lease_until: a heartbeat stays a heap-only update.
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
    #: Its last worker died, and carried it: it must run alone.
    suspect: Mapped[bool] = mapped_column(server_default=text("false"))
    #: Its worker carries nothing else.
    alone: Mapped[bool] = mapped_column(server_default=text("false"))
    #: Of workers that carried it alone.
    deaths: Mapped[int] = mapped_column(server_default="0")
    worker: Mapped[str | None]
    #: The worker whose device could not judge it; others try first.
    failed_on: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    #: The last sign of life of its worker.
    beat_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deadline_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    model: Mapped[str | None]
    policy: Mapped[str | None]
    stability: Mapped[bool] = mapped_column(server_default=text("false"))
    pictures: Mapped[list[str]]
    client_metadata: Mapped[dict[str, Any]] = mapped_column("metadata")
    source_key: Mapped[str]
    source_sha256: Mapped[str]
    source_bytes: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    error_retryable: Mapped[bool | None]
    idempotency_key: Mapped[str | None]
    replay_of: Mapped[UUID | None]

    result: Mapped[Result | None] = relationship(back_populates="job", lazy="raise")


class Result(Base):
    """A succeeded job's verdict: written once, in the transaction that ends the job."""

    __tablename__ = "results"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int]
    prediction: Mapped[str]
    confidence: Mapped[float]
    probability_fake: Mapped[float]
    raw_probability_fake: Mapped[float | None]
    """Before the policy's calibration; null in what older versions wrote."""
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
    timings: Mapped[dict[str, Any]]
    caveats: Mapped[list[str]]
    feature_mean: Mapped[bytes]
    feature_height: Mapped[int] = mapped_column(SmallInteger)
    feature_width: Mapped[int] = mapped_column(SmallInteger)
    artifacts: Mapped[dict[str, Any]]

    job: Mapped[Job] = relationship(back_populates="result", lazy="raise")


class Worker(Base):
    """A process that works: written by itself at each beat, removed by itself at its end."""

    __tablename__ = "workers"
    __table_args__ = (
        CheckConstraint("role IN ('analysis', 'webhooks', 'beat')", name="workers_role"),
        CheckConstraint("state IN ('starting', 'ready', 'draining')", name="workers_state"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    """Of this one process, as `jobs.worker` names it."""
    role: Mapped[Role]
    host: Mapped[str]
    pid: Mapped[int]
    pid_space: Mapped[str | None]
    """Who has the same may judge whether the process lives."""
    pid_ticks: Mapped[int | None] = mapped_column(BigInteger)
    """When the process began: ids are used again."""
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


class Erasure(Base):
    """A job whose row is gone and whose bytes must follow: written in the transaction that deletes the row."""

    __tablename__ = "erasures"

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    attempts: Mapped[int | None]
    """So many attempts may have stored something; null in what older versions wrote."""
    due_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class BucketWalk(Base):
    """How far the search for objects that no row knows has come, and when it goes on. One row."""

    __tablename__ = "bucket_walk"
    __table_args__ = (CheckConstraint('"only"', name="bucket_walk_only"),)

    only: Mapped[bool] = mapped_column(primary_key=True, server_default="true")
    after_key: Mapped[str] = mapped_column(server_default="")
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WebhookEndpoint(Base):
    """Where a tenant wants to be told how its jobs ended."""

    __tablename__ = "webhook_endpoints"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    url: Mapped[str]
    event_types: Mapped[list[str]]
    secret_encrypted: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    failing_since: Mapped[datetime | None]
    """When the first of the tries failed that have failed since the last success."""
    deleted_at: Mapped[datetime | None]
    """Since then nobody sees it; its deliveries go, and then it does. It is disabled, too."""


class WebhookDelivery(Base):
    """One message to one endpoint: written with the outcome it tells of, sent until it is received or given up."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="webhook_deliveries_state"),
        # What waits for an endpoint; as `jobs_lane`.
        Index(
            "webhook_deliveries_lane",
            "endpoint_id",
            "next_attempt_at",
            text("(id::text)"),
            postgresql_where=text("state = 'pending' AND lease_until IS NULL"),
        ),
        Index("webhook_deliveries_age", "begun_at", postgresql_where=text("state = 'pending'")),
        Index("webhook_deliveries_list", "tenant_id", desc("created_at"), desc("id")),
        Index("webhook_deliveries_list_by_state", "tenant_id", "state", desc("created_at"), desc("id")),
        Index("webhook_deliveries_list_by_endpoint", "endpoint_id", "state", desc("created_at"), desc("id")),
        Index("webhook_deliveries_once", "job_id", "endpoint_id", "event_type", unique=True),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    event_type: Mapped[str]
    body: Mapped[str]
    state: Mapped[DeliveryState] = mapped_column(server_default=DeliveryState.PENDING)
    attempt: Mapped[int] = mapped_column(server_default="0")
    tries_before: Mapped[int] = mapped_column(server_default="0")
    """Tries before the delivery was last sent anew: the schedule counts from there."""
    next_attempt_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    begun_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When it was written, or last sent anew: its age counts from there."""
    finished_at: Mapped[datetime | None]

    @property
    def message_id(self) -> str:
        """The `webhook-id` header: the same for every try, so that a receiver can drop doubles."""
        return f"msg_{self.id.hex}"


class WebhookAttempt(Base):
    """One try of a delivery, for the log that the tenant reads."""

    __tablename__ = "webhook_attempts"

    delivery_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    duration_ms: Mapped[int]
    status: Mapped[int | None]
    error: Mapped[str | None]
    response_excerpt: Mapped[str | None]


# The tally of both queues, jobs and deliveries: docs/adr/0007. Triggers write the moves, `fold_tally` all else; the
# service reads them through the views `tally_*` and `queue_*` (`shared/jobs/tally.py`).
def _lane() -> list[Column[Any]]:
    """Whose of what kind: a tenant's jobs of one priority, model and so on; an endpoint's deliveries."""
    return [
        Column("queue", Text, nullable=False),
        Column("tenant_id", Uuid, nullable=False),
        Column("owner", Uuid, nullable=False),
        Column("rank", SmallInteger, server_default="0", nullable=False),
        Column("begun", Boolean, server_default="false", nullable=False),
        Column("suspect", Boolean, server_default="false", nullable=False),
        Column("model", Text, server_default="", nullable=False),
        Column("policy", Text, server_default="", nullable=False),
    ]


_COUNTED = ("jobs_waiting", "jobs_running", "deliveries_waiting", "deliveries_running")
_ENDED = tuple(state for state in JobState if state.terminal)

#: What came, went or began since the last fold: written by the transaction that did it.
TALLY_MOVES = Table(
    "tally_moves",
    Base.metadata,
    Column("xid", BigInteger, server_default=text("pg_current_xact_id()::text::bigint"), nullable=False),
    *_lane(),
    Column("item", Uuid, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("waiting", SmallInteger, nullable=False),
    Column("running", SmallInteger, nullable=False),
    Column("ended", Text),
    Index("tally_moves_xid", "xid"),
)
#: The sums as of one moment. Of those before the last the lanes are gone.
TALLY_FOLDS = Table(
    "tally_folds",
    Base.metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", DateTime(timezone=True), server_default=text("clock_timestamp()"), nullable=False),
    Column("from_xid", BigInteger, nullable=False),
    *(Column(name, BigInteger, server_default="0", nullable=False) for name in (*_COUNTED, *_ENDED)),
    Index("tally_folds_at", "at"),
)
#: What waited then, and from where on in the index of the queue.
TALLY_LANES = Table(
    "tally_lanes",
    Base.metadata,
    Column("fold", BigInteger, nullable=False),
    *_lane(),
    Column("waiting", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("item", Uuid, nullable=False),
    PrimaryKeyConstraint("fold", "queue", "owner", "rank", "begun", "suspect", "model", "policy"),
)
#: What ran then.
TALLY_RUNNING = Table(
    "tally_running",
    Base.metadata,
    Column("fold", BigInteger, primary_key=True),
    Column("queue", Text, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("owner", Uuid, primary_key=True),
    Column("item", Uuid, primary_key=True),
)
