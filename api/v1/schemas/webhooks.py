"""Webhook endpoints, deliveries and messages."""

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
    job_id: UUID | None = Field(default=None, description="Only deliveries about this job.")
    state: Literal["pending", "delivered", "failed"] | None = Field(
        default=None, description="Only deliveries in this state."
    )


class NewEndpoint(Document):
    """Body of `POST /v1/webhook-endpoints`."""

    url: str = Field(min_length=1, max_length=2000, description="The URL that receives the webhooks: public and https.")
    event_types: list[EventType] = Field(
        default=list(EVENT_TYPES),
        min_length=1,
        max_length=len(EVENT_TYPES),
        description="Which events to send; all by default.",
    )


class WebhookBody(Document):
    """The message that a webhook endpoint receives."""

    type: EventType
    timestamp: datetime = Field(description="When the event happened.")
    data: Job = Field(description="The job, as `GET /v1/jobs/{job_id}` shows it.")


class Endpoint(Document):
    """A webhook endpoint."""

    id: UUID
    url: str
    event_types: list[str]
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None
    failing_since: datetime | None = Field(description="The time since which every try to this endpoint has failed.")


class CreatedEndpoint(Endpoint):
    """A webhook endpoint with its secret. The service never shows the secret again."""

    secret: str = Field(pattern="^whsec_", description="Verifies the signatures (Standard Webhooks).")


class EndpointList(Document):
    """All webhook endpoints, oldest first."""

    items: list[Endpoint]


class Attempt(Document):
    """One try to deliver."""

    attempt: int
    started_at: datetime
    duration_ms: int
    status: int | None = Field(description="The receiver's HTTP status; null if it did not answer.")
    error: str | None
    response_excerpt: str | None


class Delivery(Document):
    """A webhook and the state of its delivery."""

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
    """A page of webhook deliveries, newest first."""

    items: list[Delivery]
    links: PageLinks
