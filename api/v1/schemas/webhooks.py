"""Webhook endpoints, deliveries and messages."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, field_validator

from api.v1.schemas.base import Document, Moment, PageLinks, Paging
from api.v1.schemas.jobs import Job
from shared.domain import ENDPOINT_DISABLED, ENDPOINT_TEST, EVENT_TYPES, JOB_EVENTS

#: What webhooks tell of.
EventType = Literal[*EVENT_TYPES]  # type: ignore[valid-type]  # named in one place


class DeliveriesQuery(Paging):
    """Query of `GET /v1/webhook-deliveries`."""

    endpoint_id: UUID | None = Field(default=None, description="Only deliveries to this endpoint.")
    job_id: UUID | None = Field(default=None, description="Only deliveries about this job.")
    state: Literal["pending", "delivered", "failed"] | None = Field(
        default=None, description="Only deliveries in this state."
    )


def _once_each(values: list[str] | None) -> list[str] | None:
    return None if values is None else list(dict.fromkeys(values))


def _printable(value: str | None) -> str | None:
    if value is not None and not value.isprintable():
        raise ValueError("contains characters that cannot be printed")
    return value


_Url = Annotated[str, Field(min_length=1, max_length=2000)]
_EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=len(EVENT_TYPES)), AfterValidator(_once_each)]
_Predictions = Annotated[
    list[Literal["REAL", "FAKE", "INCONCLUSIVE"]], Field(min_length=1, max_length=3), AfterValidator(_once_each)
]
_Description = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
_PREDICTIONS = "Of jobs that succeeded, tell only those with one of these verdicts; null: all."


class NewEndpoint(Document):
    """Body of `POST /v1/webhook-endpoints`."""

    url: _Url = Field(description="The URL that receives the webhooks: public and https.")
    event_types: _EventTypes = Field(default=list(EVENT_TYPES), description="Which events to send; all by default.")
    predictions: _Predictions | None = Field(default=None, description=_PREDICTIONS)
    description: _Description | None = Field(default=None, description="Your own words, for people.")
    signature: Literal["hmac", "ed25519"] = Field(
        default="hmac",
        description="How messages are signed: with a secret that the receiver shares, or with a private key, to which "
        "the receiver has the public key.",
    )


class EndpointChanges(Document):
    """Body of `PATCH /v1/webhook-endpoints/{endpoint_id}`: the fields to change."""

    url: _Url | None = Field(default=None, description="The URL that receives the webhooks: public and https.")
    event_types: _EventTypes | None = Field(default=None, description="Which events to send.")
    predictions: _Predictions | None = Field(default=None, description=_PREDICTIONS)
    description: _Description | None = Field(default=None, description="Your own words; null removes them.")

    @field_validator("url", "event_types", mode="before")
    @classmethod
    def _is_given(cls, value: object) -> object:
        if value is None:
            raise ValueError("cannot be null")
        return value


class SecretRotation(Document):
    """Body of `POST /v1/webhook-endpoints/{endpoint_id}/rotate-secret`."""

    overlap_seconds: int = Field(
        default=86_400, ge=0, le=30 * 86_400, description="Seconds for which the old secret also signs."
    )


class Recovery(Document):
    """Body of `POST /v1/webhook-endpoints/{endpoint_id}/recover`."""

    since: Moment = Field(description="Deliveries that were written at or after this time are sent again.")


class Recovered(Document):
    """How many deliveries are sent again."""

    count: int = Field(ge=0)


class Endpoint(Document):
    """A webhook endpoint."""

    id: UUID
    url: str
    description: str | None
    event_types: list[str]
    predictions: list[str] | None = Field(description=_PREDICTIONS)
    signature: Literal["hmac", "ed25519"]
    public_key: str | None = Field(
        pattern="^whpk_", description="Verifies Ed25519 signatures (`v1a`); null with `hmac`."
    )
    old_secret_until: datetime | None = Field(
        description="Until then the secret before the last rotation also signs; null: it was never rotated."
    )
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None
    failing_since: datetime | None = Field(description="The time since which every try to this endpoint has failed.")


class CreatedEndpoint(Endpoint):
    """A webhook endpoint with its secret. The service never shows the secret again."""

    secret: str | None = Field(
        pattern="^whsec_", description="Verifies the signatures (Standard Webhooks); null with `ed25519`."
    )


class WebhookBody(Document):
    """The message that a webhook endpoint receives about a job."""

    type: Literal[*JOB_EVENTS]  # type: ignore[valid-type]  # named in one place
    timestamp: datetime = Field(description="When the event happened.")
    data: Job = Field(description="The job, as `GET /v1/jobs/{job_id}` shows it.")


class EndpointMessage(Document):
    """The message that a webhook endpoint receives about an endpoint."""

    type: Literal[ENDPOINT_DISABLED, ENDPOINT_TEST]  # type: ignore[valid-type]
    timestamp: datetime = Field(description="When the event happened.")
    data: Endpoint


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
    response_excerpt: str | None = Field(description="The first 4,096 bytes of the answer's body.")


class Delivery(Document):
    """A webhook and the state of its delivery."""

    id: UUID
    webhook_id: str = Field(description="The header `webhook-id`, the same for every try.")
    endpoint_id: UUID
    job_id: UUID | None = Field(description="Null if the message tells of an endpoint.")
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
