"""Tenants and their API keys."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    SmallInteger,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from shared.database.tables.base import Base


class Tenant(Base):
    """A platform, or a part of one, that sees only its own jobs. If a limit is null, the setting's limit applies."""

    __tablename__ = "tenants"
    __table_args__ = (
        CheckConstraint("max_open_jobs >= 1", name="tenants_max_open_jobs"),
        CheckConstraint("retention_days >= 1", name="tenants_retention_days"),
        CheckConstraint("max_daily_device_seconds >= 1", name="tenants_max_daily_device_seconds"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(unique=True)
    max_open_jobs: Mapped[int | None]
    max_daily_device_seconds: Mapped[int | None]
    """The device seconds after which it may submit no more jobs until the next day (UTC); null: no limit."""
    retention_days: Mapped[int | None]
    policy: Mapped[str | None]
    """Decides the verdicts of jobs that name no policy; null: the model's own threshold decides them."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Base):
    """A tenant's API key. Only its keyed hash is stored."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    hash: Mapped[bytes] = mapped_column(unique=True)
    hint: Mapped[str]
    prefix: Mapped[str | None]
    """Its first characters; null in what older versions wrote."""
    scopes: Mapped[list[str]] = mapped_column(server_default=text("'{submit,read,webhooks,review}'"))
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    operator: Mapped[bool] = mapped_column(server_default="false")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revoked_at: Mapped[datetime | None]
