"""Jobs, their results and their files."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from api.v1.schemas.base import Document, Moment, PageLinks, Paging, Query
from api.v1.schemas.submission import MOST_CLIENT_REF
from shared.domain import DECLARATIONS, PICTURES, SOURCE, JobState, Stage
from shared.errors import ErrorCode
from shared.images.visualizations import PREVIEW_SIDE
from shared.jobs.queries import JobFilter

IDEMPOTENCY_HEADER = "Idempotency-Key"
#: What the header may hold, as a regular expression: it is compared as it is, quotes included.
IDEMPOTENCY_KEY = "[!-~]{1,255}"
#: As long a side as a heatmap is made for.
LONGEST_SIDE = 65_535


#: The most jobs that a list can name.
MOST_IDS = 100
_STATES = "|".join(JobState)
_UUID = "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"


class JobsQuery(Paging):
    """Query of `GET /v1/jobs`."""

    status: str | None = Field(
        default=None,
        pattern=f"^({_STATES})(,({_STATES})){{0,5}}$",
        description="Only jobs in this state, or in one of several that commas separate.",
    )
    error_code: ErrorCode | None = Field(default=None, description="Only jobs that ended with this error.")
    prediction: Literal["REAL", "FAKE", "INCONCLUSIVE"] | None = Field(
        default=None, description="Only jobs with this verdict."
    )
    client_ref: str | None = Field(
        default=None, min_length=1, max_length=MOST_CLIENT_REF, description="Only jobs with this `client_ref`."
    )
    ids: str | None = Field(
        default=None,
        pattern=f"^{_UUID}(,{_UUID}){{0,{MOST_IDS - 1}}}$",
        description=f"Only these jobs: at most {MOST_IDS} ids, separated by commas.",
    )
    created_after: Moment | None = Field(default=None, description="Only jobs that were created after this time.")
    created_before: Moment | None = Field(default=None, description="Only jobs that were created before this time.")

    def filter(self) -> JobFilter:
        """Return what is asked for."""
        return JobFilter(
            ids=frozenset(UUID(each) for each in self.ids.split(",")) if self.ids else (),
            states=frozenset(JobState(each) for each in self.status.split(",")) if self.status else (),
            error_code=self.error_code,
            client_ref=self.client_ref,
            prediction=self.prediction,
            created_after=self.created_after,
            created_before=self.created_before,
        )


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
        description="`1` answers as the path with `/link` appended does. The next release removes it.",
    )
    max_side: int | None = Field(
        default=None,
        ge=16,
        le=PREVIEW_SIDE,
        description="Scale a picture down until neither side has more pixels. Not for `source`.",
    )


_SIDE = (
    "Pixels. If one side is omitted, it follows from the other by the region's proportions. If both are, the picture "
    "has the region's size."
)


class HeatmapPictureQuery(Query):
    """Query of `GET /v1/jobs/{job_id}/heatmap.png`."""

    width: int | None = Field(default=None, ge=1, le=LONGEST_SIDE, description=_SIDE)
    height: int | None = Field(default=None, ge=1, le=LONGEST_SIDE, description=_SIDE)
    region: Literal["image", "analyzed"] = Field(
        default="image",
        description="What the picture covers: the whole image, or the region that the detector analysed.",
    )


class HeatmapQuery(HeatmapPictureQuery):
    """Query of `GET /v1/jobs/{job_id}/heatmap`."""

    format: Literal["json", "png"] = Field(
        default="json",
        json_schema_extra=_DEPRECATED,
        description="`png` answers as heatmap.png does. The next release removes it.",
    )


#: Where to go on from a job; `heatmap` is there once it has succeeded.
JobLinks = dict[Literal["self", "cancel", "heatmap"], str]


class Accepted(Document):
    """A job that was accepted, now or when the same submission was sent earlier."""

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
Artifacts = dict[Literal[SOURCE, *PICTURES], Artifact]  # type: ignore[valid-type]  # named in one place


class Dimensions(Document):
    """Pixels, after the file's EXIF orientation was applied."""

    width: int
    height: int


class Region(Document):
    """A rectangle in pixels of the original."""

    x: int
    y: int
    width: int
    height: int


class Input(Document):
    """What kind of file the image is."""

    media_type: str = Field(description="Determined by the file's first bytes.")
    format: str | None = Field(
        description="The decoded format: JPEG, MPO, PNG, WEBP, GIF, BMP, TIFF or AVIF; null in results of old versions."
    )
    jpeg_quality_estimate: int | None = Field(
        ge=1,
        le=100,
        description="The JPEG quality of the last save, if the quantisation tables are libjpeg's; else null.",
    )


class Model(Document):
    """Which weights gave the verdict, on which device and in which number format.

    The number format changes a probability slightly. `device` and `precision` are null in results that old versions
    wrote.
    """

    name: str
    weights_sha256: str
    demonstration: bool
    device: str | None
    precision: str | None


class Interval(Document):
    """The interval in which a rate lies, with the stated confidence."""

    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    confidence: float = Field(ge=0, le=1)


class Policy(Document):
    """The rule that decided the verdict, and its error rates, measured when the policy was made."""

    name: str
    threshold: float = Field(ge=0, le=1)
    inconclusive_from: float | None = Field(
        ge=0,
        le=1,
        description="A `probability_fake` from this value up to the threshold is INCONCLUSIVE; null: none is.",
    )
    temperature: float = Field(gt=0)
    bias: float = Field(description="probability_fake = sigmoid(logit / temperature + bias).")
    measured_fpr: float = Field(ge=0, le=1, description="The share of real images that were classified as FAKE.")
    fpr_interval: Interval
    photographs: int = Field(ge=1, description="The number of real images on which `measured_fpr` was measured.")


class Stability(Document):
    """How small changes affect the verdict: JPEG of quality 90 and 60, three quarters of the size, mirrored."""

    flip_rate: float = Field(
        ge=0, le=1, description="The share of the changes that moved the image across the threshold."
    )
    probability_min: float = Field(
        ge=0, le=1, description="The smallest `probability_fake`, that of the unchanged image included."
    )
    probability_max: float = Field(ge=0, le=1)
    passes: int = Field(ge=2, description="The number of images that the networks classified.")


class Result(Document):
    """A verdict: evidence, not proof."""

    prediction: Literal["REAL", "FAKE", "INCONCLUSIVE"] = Field(
        description="INCONCLUSIVE occurs only with a policy that has a band for it: the probability lies in the band, "
        "small changes of the image move it across the threshold, or the image has too little content. It is no "
        "evidence of FAKE."
    )
    confidence: float = Field(
        ge=0, le=1, description="Probability of the prediction; where it is INCONCLUSIVE, of the likelier class."
    )
    probability_fake: float = Field(ge=0, le=1, description="Calibrated by the policy, if there is one.")
    raw_probability_fake: float = Field(ge=0, le=1, description="The model's own probability, without a policy.")
    threshold: float = Field(description="The prediction is FAKE if `probability_fake` is at least this.")
    policy: Policy | None = Field(description="Null: the model's own threshold decided.")
    stability: Stability | None = Field(
        description="Null unless the request asked for it. Instability is no evidence of FAKE."
    )
    processing_time: float = Field(description="Seconds from claim to the last byte stored.")
    device_seconds: float | None = Field(
        description="The image's share of the device's time: the duration of each pass, divided by its images. "
        "Null in results that old versions wrote."
    )
    dimensions: Dimensions
    analyzed_region: Region = Field(description="The part of the image that the network saw.")
    input: Input
    model: Model
    timings: dict[str, float] = Field(description="Seconds in each stage.")
    caveats: list[str] = Field(description="Sentences for people about what affects the verdict.")
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
    """A job, with its result or error once it has ended."""

    id: UUID
    status: JobState
    stage: Stage | None
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime
    replay_of: UUID | None = Field(description="The failed or expired job that this job runs again.")
    client_ref: str | None = Field(description="Your own id of the image.")
    declared: Literal[DECLARATIONS] | None = Field(  # type: ignore[valid-type]  # named in one place
        description="What the uploader said of the image."
    )
    metadata: dict[str, Any]
    links: JobLinks
    artifacts: Artifacts
    result: Result | None
    error: JobError | None


class JobPage(Document):
    """A page of jobs, newest first."""

    items: list[Job]
    links: PageLinks


class Heatmap(Document):
    """A number for each pixel, row by row from the top."""

    width: int
    height: int
    region: Region = Field(description="The rectangle of the image that the numbers cover.")
    heatmap_scores: list[list[float]]


class Link(Document):
    """A URL that works without a key for a limited time."""

    url: str
    expires_at: datetime
