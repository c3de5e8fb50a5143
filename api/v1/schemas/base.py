"""The documents of the API, as pydantic models: what is checked on the way in, and what the OpenAPI document promises.

Answers are made by `shared/presenter.py` and the views; the tests hold them to these models.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, get_args
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator

from shared.database.pagination import Cursor, CursorError
from shared.domain import JobState, Stage
from shared.errors import ErrorCode
from shared.workers.registry import Role, WorkerState

IDEMPOTENCY_HEADER = "Idempotency-Key"
#: What the header may hold, as a regular expression: it is compared as it is, quotes included.
IDEMPOTENCY_KEY = "[!-~]{1,255}"
#: What webhooks tell of.
EventType = Literal["job.succeeded", "job.failed", "job.canceled", "job.expired"]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
#: As long a side as a heatmap is made for.
LONGEST_SIDE = 65_535


class Document(BaseModel):
    """A JSON object without surprises: no other members."""

    model_config = ConfigDict(extra="forbid")


class Query(Document):
    """Query parameters; an unknown one is an error, since ignoring a misspelt filter would show too much."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_control_characters(cls, value: object) -> object:
        if isinstance(value, str) and not value.isprintable():
            raise ValueError("contains characters that cannot be printed")
        return value


class Paging(Query):
    """How much of a list, and from where."""

    limit: int = Field(default=20, ge=1, le=100, description="The most items in one page.")
    cursor: str | None = Field(default=None, description="From the `next` link of the page before.")

    @field_validator("cursor")
    @classmethod
    def _was_given_out(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                Cursor.decode(value)
            except CursorError as error:
                raise ValueError(error.message) from error
        return value

    @property
    def after(self) -> Cursor | None:
        """The place that the cursor names."""
        return Cursor.decode(self.cursor) if self.cursor else None


class JobsQuery(Paging):
    """Query of `GET /v1/jobs`."""

    status: Literal["queued", "running", "succeeded", "failed", "canceled", "expired"] | None = Field(
        default=None, description="Only jobs in this state."
    )
    error_code: ErrorCode | None = Field(default=None, description="Only jobs that ended with this error.")

    def filters(self) -> dict[str, str]:
        """Return the columns that are asked for, with their values."""
        wanted = {"state": self.status, "error_code": self.error_code}
        return {column: str(value) for column, value in wanted.items() if value is not None}


class JobQuery(Query):
    """Query of `GET /v1/jobs/{job_id}`."""

    include: Literal["heatmap_scores"] | None = Field(
        default=None,
        description="`heatmap_scores` adds a number for each pixel of the original to the result; it can be large.",
    )


#: pydantic's own way of saying so warns the service itself.
_DEPRECATED: dict[str, Any] = {"deprecated": True}


class ArtifactQuery(Query):
    """Query of an artifact."""

    link: Literal["1"] | None = Field(
        default=None,
        json_schema_extra=_DEPRECATED,
        description="`1` answers as the address with `/link` behind it does. It goes with the next release.",
    )


_SIDE = "Pixels. Left out, it follows from the other by the region's proportions; without both, they are the region's."


class HeatmapPictureQuery(Query):
    """Query of `GET /v1/jobs/{job_id}/heatmap.png`."""

    width: int | None = Field(default=None, ge=1, le=LONGEST_SIDE, description=_SIDE)
    height: int | None = Field(default=None, ge=1, le=LONGEST_SIDE, description=_SIDE)
    region: Literal["image", "analyzed"] = Field(
        default="image", description="What is covered: the whole image, or the region that the detector saw."
    )


class HeatmapQuery(HeatmapPictureQuery):
    """Query of `GET /v1/jobs/{job_id}/heatmap`."""

    format: Literal["json", "png"] = Field(
        default="json",
        json_schema_extra=_DEPRECATED,
        description="`png` answers as heatmap.png does. It goes with the next release.",
    )


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
        max_length=4,
        description="What to tell; all by default.",
    )


#: Where to go on from a job; `heatmap` is there once it has succeeded.
JobLinks = dict[Literal["self", "cancel", "heatmap"], str]
#: Where a list goes on; `next` is null on the last page.
PageLinks = dict[Literal["self", "next"], str | None]


class Accepted(Document):
    """A job that was accepted, just now or when the same submission came before."""

    id: UUID
    status: JobState
    created_at: datetime
    links: JobLinks


class Artifact(Document):
    """A stored file of a job."""

    href: str
    media_type: str
    bytes: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


#: The upload, and those pictures that were asked for and made.
Artifacts = dict[Literal["source", "dire_map", "heatmap", "overlay"], Artifact]


class Dimensions(Document):
    """Pixels, after the orientation in the file's own data was applied."""

    width: int
    height: int


class Region(Document):
    """A rectangle in pixels of the original."""

    x: int
    y: int
    width: int
    height: int


class Input(Document):
    """What the file turned out to be."""

    media_type: str = Field(description="By its first bytes.")
    format: str | None = Field(
        description="What was decoded: JPEG, MPO, PNG, WEBP, GIF, BMP, TIFF or AVIF; null in results of old versions."
    )
    jpeg_quality_estimate: int | None = Field(
        ge=1, le=100, description="Of the last save, where its quantisation tables are libjpeg's; else null."
    )


class Model(Document):
    """Which weights gave the verdict, and on what: number formats move a probability a little.

    `device` and `precision` are null in results from before they were recorded.
    """

    name: str
    weights_sha256: str
    demonstration: bool
    device: str | None
    precision: str | None


class Interval(Document):
    """Between which values a rate lies, with that confidence."""

    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    confidence: float = Field(ge=0, le=1)


class Policy(Document):
    """How the verdict was called, and what was measured of that when the policy was made."""

    name: str
    threshold: float = Field(ge=0, le=1)
    inconclusive_from: float | None = Field(
        ge=0, le=1, description="From this `probability_fake` up to the threshold: INCONCLUSIVE; null: never."
    )
    temperature: float = Field(gt=0)
    bias: float = Field(description="probability_fake = sigmoid(logit / temperature + bias).")
    measured_fpr: float = Field(ge=0, le=1, description="The share of photographs that were called FAKE.")
    fpr_interval: Interval
    photographs: int = Field(ge=1, description="So many it was measured on.")


class Stability(Document):
    """What small changes did: JPEG of quality 90 and 60, three quarters of the size, mirrored."""

    flip_rate: float = Field(ge=0, le=1, description="The share that moved the image across the threshold.")
    probability_min: float = Field(ge=0, le=1, description="Of `probability_fake`, the unchanged image's included.")
    probability_max: float = Field(ge=0, le=1)
    passes: int = Field(ge=2, description="So many images the networks judged.")


class Result(Document):
    """A verdict: evidence, not proof."""

    prediction: Literal["REAL", "FAKE", "INCONCLUSIVE"] = Field(
        description="INCONCLUSIVE only by a policy that has a band for it: the probability lies in the band, small "
        "changes of the image move it across the threshold, or the image has no content to judge by. It is no evidence "
        "of FAKE."
    )
    confidence: float = Field(
        ge=0, le=1, description="Probability of the prediction; where it is INCONCLUSIVE, of the likelier class."
    )
    probability_fake: float = Field(ge=0, le=1, description="Calibrated, where there is a policy.")
    raw_probability_fake: float = Field(ge=0, le=1, description="As the model states it, without a policy.")
    threshold: float = Field(description="From this `probability_fake` on the prediction is FAKE.")
    policy: Policy | None = Field(description="Null: the threshold is the model's own.")
    stability: Stability | None = Field(description="Null unless it was asked for. Instability is no evidence of FAKE.")
    processing_time: float = Field(description="Seconds from claim to the last byte stored.")
    dimensions: Dimensions
    analyzed_region: Region = Field(description="The part of the image that the network saw.")
    input: Input
    model: Model
    timings: dict[str, float] = Field(description="Seconds in each stage.")
    caveats: list[str] = Field(description="Sentences for people about what bears on the verdict.")
    notice: str
    heatmap_scores: list[list[float]] = Field(
        default=[], description="Height x width numbers in [0, 1]; only with `include=heatmap_scores`."
    )


class JobError(Document):
    """Why a job failed."""

    code: ErrorCode
    message: str
    retryable: bool = Field(description="Whether the same image may succeed when it is submitted again.")


class Job(Document):
    """A job and, where it has ended, how."""

    id: UUID
    status: JobState
    stage: Stage | None
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime
    replay_of: UUID | None = Field(description="The job that failed or expired, and is run again as this one.")
    metadata: dict[str, Any]
    links: JobLinks
    artifacts: Artifacts
    result: Result | None
    error: JobError | None


class JobPage(Document):
    """Some jobs, newest first."""

    items: list[Job]
    links: PageLinks


class Heatmap(Document):
    """A number for each pixel, row by row from the top."""

    width: int
    height: int
    region: Region = Field(description="The rectangle of the image that the numbers cover.")
    heatmap_scores: list[list[float]]


class WebhookBody(Document):
    """What is sent to a webhook endpoint."""

    type: EventType
    timestamp: datetime = Field(description="When it happened.")
    data: Job = Field(description="The job, as `GET /v1/jobs/{job_id}` shows it.")


class Link(Document):
    """An address that needs no key, for a while."""

    url: str
    expires_at: datetime


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
    slots: int = Field(description="What it can carry at once: jobs, or webhooks.")
    busy: int = Field(description="What it carries.")
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


class WrongField(Document):
    """What is wrong with one field or parameter."""

    field: str
    message: str


class ProblemDocument(Document):
    """A refusal (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable: decide by it.")
    remedy: str
    request_id: str = Field(description="Tell the operator this.")
    errors: list[WrongField] = Field(default=[], description="Each field that is wrong, where fields are.")


#: Every document that the OpenAPI document names.
DOCUMENTS: tuple[type[Document], ...] = (
    Accepted,
    Alive,
    CreatedEndpoint,
    Delivery,
    DeliveryPage,
    Endpoint,
    EndpointList,
    Heatmap,
    Job,
    JobPage,
    Link,
    ProblemDocument,
    WebhookBody,
    Readiness,
    WorkerList,
)
