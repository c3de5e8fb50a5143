"""Jobs and results as plain values: states, stages and data, independent of how they are stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID


class JobState(StrEnum):
    """`queued → running → succeeded | failed | canceled | expired`; `running → queued` when a lease ends."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def replayable(self) -> bool:
        """Whether the job ended for a reason that may not recur."""
        return self in (JobState.FAILED, JobState.EXPIRED)

    @property
    def terminal(self) -> bool:
        """Whether the job never changes again."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class DeliveryState(StrEnum):
    """`pending → delivered | failed`; `failed → pending` when its tenant resends it."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Role(StrEnum):
    """What a worker is for."""

    ANALYSIS = "analysis"
    WEBHOOKS = "webhooks"
    BEAT = "beat"


class WorkerState(StrEnum):
    """`starting → ready → draining`."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Stage(StrEnum):
    """The step that a running job is in."""

    FETCHING = "fetching"
    DECODING = "decoding"
    DIFFUSING = "diffusing"
    CLASSIFYING = "classifying"
    RENDERING = "rendering"
    STORING = "storing"


#: The pictures that explain a verdict. To add one: add its name here, its drawing in `shared/images/visualizations.py`
#: (`draw_pictures`), and a line in docs/api.md.
DRAWINGS = ("dire_map", "heatmap", "overlay")
#: The picture that is the image itself, smaller and encoded again, so that no byte of the upload reaches a browser.
PREVIEW = "preview"
#: The pictures that a job can ask for, by the names of their form fields and artifacts.
PICTURES = (*DRAWINGS, PREVIEW)
#: What an uploader can say of an image.
DECLARATIONS = ("real", "generated", "edited")
#: The number of images that the networks see for a job that asks how stable its verdict is: its own and its changes.
PROBE_PASSES = 5
#: The regular expression for the names of policies.
POLICY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
#: Given as a tenant's limit or policy, it means that the tenant has none of its own. So no policy may have this name.
DEFAULT = "default"
#: The artifact that is the upload itself.
SOURCE = "source"
#: The ways in which a job ends, as types of events.
JOB_EVENTS = tuple(f"job.{state}" for state in JobState if state.terminal)
#: A webhook endpoint was disabled, because it failed for too long or is gone.
ENDPOINT_DISABLED = "webhook_endpoint.disabled"
#: The events that a webhook endpoint can subscribe to.
EVENT_TYPES = (*JOB_EVENTS, ENDPOINT_DISABLED)
#: A message that a tenant sends to its own endpoint, to try it.
ENDPOINT_TEST = "webhook_endpoint.test"


@dataclass(frozen=True)
class JobOptions:
    """What a client chooses for its job, beside the image: passed whole from the form to the worker and to a replay.

    To add an option, add:

    - a field here, and a column of the same name in `shared/database/tables/jobs.py`, with a migration;
      `shared/jobs/options.py` copies each field to its column and back;
    - the client's field in `api/v1/schemas/submission.py`, its reading from a form in `api/v1/submission_form.py`, and
      its description in `api/docs/openapi.py`;
    - the column to what a claim returns (`shared/jobs/sql/claim.sql`).
    """

    model: str | None = None
    """The model card that the client names; None: whichever the workers run."""
    policy: str | None = None
    """The policy that the client names; None: the tenant's, or else the model's own threshold.

    In a claimed job, this is already the tenant's policy if the client named none.
    """
    stability: bool = False
    """Whether the networks also see small changes of the image: `PROBE_PASSES` images instead of one."""
    pictures: tuple[str, ...] = PICTURES
    """The pictures to draw."""
    flagged_only: bool = False
    """Whether the pictures are drawn only if the verdict is not REAL."""
    client_metadata: dict[str, Any] = field(default_factory=dict)
    """A JSON object of the client's own, returned unchanged with the job."""
    client_ref: str | None = None
    """The client's own id of the image, returned unchanged with the job. Several jobs may have the same."""
    declared: str | None = None
    """What the uploader says of the image: one of `DECLARATIONS`."""
    deadline_seconds: int | None = None
    """The seconds after which the job expires if it has not ended; None: the setting's time."""


@dataclass(frozen=True)
class NewJob:
    """A job to be written. Its image is in the object store already."""

    id: UUID
    tenant_id: UUID
    source_key: str
    source_sha256: str
    source_bytes: int
    media_type: str
    """Determined from the first bytes, never from what the client states."""
    options: JobOptions = field(default_factory=JobOptions)
    priority: int = 0
    """Workers take jobs of a higher priority first. It comes from the API key."""
    key_id: UUID | None = None
    """The API key that submits it."""
    idempotency_key: str | None = None
    """The client's name for this submission. A second submission with the same key returns the same job."""
    replay_of: UUID | None = None
    """The job that failed or expired, and that this one runs again."""


class AttemptId(NamedTuple):
    """One attempt at a job: the fence of everything that its worker writes."""

    job_id: UUID
    attempt: int
    """From 1."""


@dataclass(frozen=True)
class ClaimedJob:
    """A job as a claim returns it to the worker."""

    id: UUID
    tenant_id: UUID
    attempt: int
    suspect: bool
    """Its last worker died, so this worker must run it isolated (`lifecycle.begin_isolated`)."""
    source_key: str
    source_sha256: str
    deadline_at: datetime
    options: JobOptions

    @property
    def attempt_id(self) -> AttemptId:
        """The id of this attempt at the job."""
        return AttemptId(self.id, self.attempt)


@dataclass(frozen=True)
class Artifact:
    """A stored picture of a result."""

    key: str
    bytes: int
    sha256: str
    media_type: str = "image/png"


@dataclass(frozen=True)
class ModelIdentity:
    """Which weights computed a verdict, on which device and in which number format."""

    name: str
    weights_sha256: str
    demonstration: bool
    device: str | None
    """As torch names it: `cpu`, `cuda` …; None in results of versions that did not record it."""
    precision: str | None
    """The U-Net's number format: `fp32`, `bf16` or `fp16`; None as for `device`."""


@dataclass(frozen=True)
class Region:
    """A rectangle of the upright image, in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class AnalyzedImage:
    """What the image turned out to be, and which part of it the network saw."""

    width: int
    """Of the upright image, in pixels."""
    height: int
    region: Region
    """The rectangle that the network saw."""
    media_type: str
    """Determined from the first bytes."""
    file_format: str | None
    """The format that was decoded, as Pillow names it; None in results of versions that did not record it."""
    jpeg_quality: int | None
    """1 to 100, if it can be estimated from the quantisation tables."""


@dataclass(frozen=True)
class FeatureMean:
    """The mean of the student's feature map over its channels, from which heatmaps of any size are computed."""

    values: bytes
    """height × width numbers, float32 little-endian, row by row."""
    height: int
    width: int


@dataclass(frozen=True)
class ConfidenceInterval:
    """The values between which a rate lies, with this confidence; all in [0, 1]."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class AppliedPolicy:
    """The policy that decided a verdict, and what was measured when the policy was made."""

    name: str
    threshold: float
    """A calibrated probability, as `inconclusive_from` is."""
    inconclusive_from: float | None
    """From here up to the threshold a verdict is INCONCLUSIVE; None: it never is."""
    temperature: float
    """The calibrated probability is sigmoid(logit / temperature + bias)."""
    bias: float
    measured_fpr: float
    """The share of real images that were classified as FAKE."""
    fpr_interval: ConfidenceInterval
    photographs: int
    """The number of real images on which `measured_fpr` was measured."""


@dataclass(frozen=True)
class Stability:
    """How much small changes of an image moved its probability."""

    flip_rate: float
    """The share of the changes that moved its probability across the threshold, in [0, 1]."""
    probability_min: float
    """The smallest `probability_fake` of the image and all its changes."""
    probability_max: float
    passes: int
    """The images that the networks saw, the unchanged one included."""


@dataclass(frozen=True)
class JobResult:
    """A verdict and all that explains it.

    To add a part: add a field here, a column of `results` with a migration, and one line in each of
    `shared/jobs/results.py` (to the row and back), `shared/presenter.py` (the document) and
    `api/v1/schemas/jobs.py` (its description).
    """

    prediction: str
    """`REAL` or `FAKE`; a policy with an inconclusive band can also give `INCONCLUSIVE`."""
    confidence: float
    """The probability of the prediction, in [0, 1]; if it is INCONCLUSIVE, of the likelier class."""
    probability_fake: float
    """Calibrated, if there is a policy."""
    raw_probability_fake: float
    """Before calibration: the model's own probability."""
    threshold: float
    """`probability_fake >= threshold` means FAKE."""
    policy: AppliedPolicy | None
    stability: Stability | None
    """None unless it was asked for."""
    processing_time: float
    """Seconds from the claim until the last picture was stored."""
    device_seconds: float | None
    """Its share of the passes of the device, each divided by its images; None if an older version wrote the result."""
    image: AnalyzedImage
    model: ModelIdentity
    timings: dict[str, float]
    """Seconds in each stage."""
    caveats: tuple[str, ...]
    """Sentences for people about what affects the verdict's reliability."""
    feature_mean: FeatureMean
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    """The stored pictures, by name."""
