"""Webhook endpoints, deliveries and their tries."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    desc,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from shared.database.tables.base import Base
from shared.domain import DeliveryState


class WebhookEndpoint(Base):
    """A URL at which a tenant receives webhooks about how its jobs ended."""

    __tablename__ = "webhook_endpoints"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    url: Mapped[str]
    description: Mapped[str | None]
    """The tenant's own words."""
    event_types: Mapped[list[str]]
    predictions: Mapped[list[str] | None]
    """Of jobs that succeeded, only those with one of these predictions are told; null: all."""
    secret_encrypted: Mapped[bytes]
    """The secret of its signatures, or its private key if it has a public key."""
    public_key: Mapped[str | None]
    """With it the receiver verifies Ed25519 signatures; null: they are made with a shared secret."""
    old_secret_encrypted: Mapped[bytes | None]
    """The secret before the last rotation, which also signs until `old_secret_until`."""
    old_secret_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    failing_since: Mapped[datetime | None]
    """When the first try after the last success failed; null if the last try succeeded."""
    deleted_at: Mapped[datetime | None]
    """From then on it is hidden and disabled; its deliveries are deleted, and then its row."""


class WebhookDelivery(Base):
    """One message to one endpoint: written in the transaction that ends its job, tried until it arrives or fails."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="webhook_deliveries_state"),
        # The queue of an endpoint; its order is unique as that of `jobs_lane`.
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
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    """Null if it tells of an endpoint."""
    event_type: Mapped[str]
    body: Mapped[str]
    state: Mapped[DeliveryState] = mapped_column(server_default=DeliveryState.PENDING)
    attempt: Mapped[int] = mapped_column(server_default="0")
    tries_before: Mapped[int] = mapped_column(server_default="0")
    """Tries before the delivery was last resent: the schedule counts from there."""
    next_attempt_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    begun_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When it was written or last resent: its age counts from there."""
    finished_at: Mapped[datetime | None]

    @property
    def message_id(self) -> str:
        """The `webhook-id` header: the same for every try, so that a receiver can drop duplicates."""
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
