"""What a run leaves behind, as plain values: all that the checker knows, and nothing that reads it from anywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

TERMINAL = frozenset({"succeeded", "failed", "canceled", "expired"})


@dataclass(frozen=True)
class Accepted:
    """A submission that was answered with 202, as the client wrote it down."""

    job: str
    tenant: str
    sha256: str
    """Of the image that was sent."""
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Observed:
    """A terminal state that somebody outside was told of: by an answer of the API, or by a webhook."""

    job: str
    state: str
    by: str


@dataclass(frozen=True)
class Snapshot:
    """A terminal row as the database showed it at some moment."""

    job: str
    digest: str
    """Of the whole row with its result."""
    at: float


@dataclass(frozen=True)
class JobFacts:
    """A job at the end."""

    job: str
    tenant: str
    state: str
    source_key: str
    pictures: tuple[str, ...]
    digest: str
    error: str = ""
    """The code of a failure."""
    deaths: int = 0
    """How often its worker's end was counted against it."""
    created: float = 0.0
    ended: float = 0.0
    """Both by the clock of the epoch."""


@dataclass(frozen=True)
class StoredObject:
    """What a result says of one of its pictures."""

    name: str
    key: str
    sha256: str


@dataclass(frozen=True)
class ResultFacts:
    """A verdict at the end."""

    job: str
    artifacts: tuple[StoredObject, ...]


@dataclass(frozen=True)
class DeliveryFacts:
    """A webhook at the end."""

    message: str
    """Its `webhook-id`."""
    job: str
    endpoint: str
    state: str


@dataclass(frozen=True)
class Receipt:
    """One request that a receiver of webhooks got."""

    endpoint: str
    message: str
    job: str
    body_sha256: str
    answered: bool
    """Whether the receiver answered it with 2xx."""


@dataclass(frozen=True)
class Evidence:
    """Everything that is known of a run when it is over."""

    accepted: Sequence[Accepted] = ()
    observed: Sequence[Observed] = ()
    snapshots: Sequence[Snapshot] = ()
    jobs: Sequence[JobFacts] = ()
    results: Sequence[ResultFacts] = ()
    stored: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each object that was found, by key."""
    endpoints: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The endpoints that each tenant had from before its first job, by its name."""
    deliveries: Sequence[DeliveryFacts] = ()
    receipts: Sequence[Receipt] = ()
    incidents: Sequence[float] = ()
    """When something happened that can cost a worker its jobs: its end, a freeze, a database that was away."""
    ghosts: Sequence[str] = ()
    """Workers that the database still shows at the end, though their processes are gone."""
