"""Webhook endpoints, deliveries, and what is sent."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from api.v1.schemas.base import Document, PageLinks, Paging
from api.v1.schemas.jobs import Job
from shared.domain import EVENT_TYPES

#: What webhooks tell of.
EventType = Literal[*EVENT_TYPES]  # type: ignore[valid-type]  # named in one place


class DeliveriesQuery(Paging):
    """Query of `GET /v1/webhook-deliveries`."""

    endpoint_id: UUID | None = Field(default=None, description="Only deliveries to this endpoint.")
    job_id: UUID | None = Field(default=None, description="Only deliveries that tell of this job.")
    state: Literal["pending", "delivered", "failed"] | None = Field(
        default=None, description="Only deliveries in this state."
    )


class NewEndpoint(Document):
    """Body of `POST /v1/webhook-endpoints`."""

    url: str = Field(min_length=1, max_length=2000, description="Where to send: public, https.")
    event_types: list[EventType] = Field(
        default=list(EVENT_TYPES),
        min_length=1,
        max_length=len(EVENT_TYPES),
        description="What to tell; all by default.",
    )


class WebhookBody(Document):
    """What is sent to a webhook endpoint."""

    type: EventType
    timestamp: datetime = Field(description="When it happened.")
    data: Job = Field(description="The job, as `GET /v1/jobs/{job_id}` shows it.")


class Endpoint(Document):
    """A webhook endpoint."""

    id: UUID
    url: str
    event_types: list[str]
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None
    failing_since: datetime | None = Field(description="Since when each try has failed, of whatever delivery.")


class CreatedEndpoint(Endpoint):
    """A webhook endpoint with its secret, which is never shown again."""

    secret: str = Field(pattern="^whsec_", description="Verify signatures with it (Standard Webhooks).")


class EndpointList(Document):
    """All webhook endpoints, oldest first."""

    items: list[Endpoint]


class Attempt(Document):
    """One try to deliver."""

    attempt: int
    started_at: datetime
    duration_ms: int
    status: int | None = Field(description="The receiver's HTTP status, if it answered.")
    error: str | None
    response_excerpt: str | None


class Delivery(Document):
    """A webhook and how its delivery goes."""

    id: UUID
    webhook_id: str = Field(description="The header `webhook-id`, the same for every try.")
    endpoint_id: UUID
    job_id: UUID
    event_type: str
    state: Literal["pending", "delivered", "failed"]
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    attempts: list[Attempt]


class DeliveryPage(Document):
    """Some webhook deliveries, newest first."""

    items: list[Delivery]
    links: PageLinks
