"""Pages of a tenant's rows, newest first: keyset paging, so that a page costs the same wherever it lies.

A cursor names the last row that was shown. Rows that are added later are newer than it, so nobody who follows the
cursors sees a row twice or misses one that was there when they began.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Self, TypeVar
from uuid import UUID

from sqlalchemy import Select, TextualSelect, Uuid, exists, select, text, tuple_
from sqlalchemy.orm import Session, aliased, defer

from shared.database.tables import Job, Result, Tenant, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from shared.domain import JobState
from shared.errors import DistildireError, ErrorCode

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAYOUT = struct.Struct(">q16s")


_PENDING = "pending"
_FROM_THE_NEWEST = {"before": "infinity", "before_id": UUID(int=0)}

# Of what is open, by the tally: an index of all rows would lead through those that are open no more.
_QUEUED = text("SELECT * FROM queued_jobs(:tenant, :before, :before_id, :most)").columns(id=Uuid)
_RUNNING = text("""
SELECT id, created_at FROM running_jobs WHERE tenant_id = :tenant AND (created_at, id) < (:before, :before_id)
ORDER BY created_at DESC, id DESC LIMIT :most
""").columns(id=Uuid)
_OPEN_JOBS: Mapping[str, TextualSelect] = {JobState.QUEUED: _QUEUED, JobState.RUNNING: _RUNNING}
_PENDING_DELIVERIES = text(
    "SELECT * FROM pending_deliveries(:tenant, CAST(:endpoint AS uuid), :before, :before_id, :most)"
).columns(id=Uuid)
_OF_ENDPOINT = text("SELECT * FROM deliveries_of(:tenant, :endpoint, :before, :before_id, :most)").columns(id=Uuid)


class CursorError(DistildireError):
    """The cursor is not one that this service gave out. Start again without it."""


@dataclass(frozen=True)
class Cursor:
    """A place between two rows."""

    created_at: datetime
    id: UUID

    def encode(self) -> str:
        """Return 32 characters that are safe in a URL and that clients should not look into."""
        microseconds = (self.created_at - _EPOCH) // timedelta(microseconds=1)
        return base64.urlsafe_b64encode(_LAYOUT.pack(microseconds, self.id.bytes)).decode()

    @classmethod
    def decode(cls, value: str) -> Self:
        """Undo `encode`; raise `CursorError` for anything else."""
        try:
            microseconds, identity = _LAYOUT.unpack(base64.b64decode(value, altchars=b"-_", validate=True))
            return cls(_EPOCH + timedelta(microseconds=microseconds), UUID(bytes=identity))
        except (binascii.Error, struct.error, ValueError, OverflowError) as error:
            raise CursorError from error


_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Page(Generic[_Row]):
    """Some rows, and where the rest begins."""

    rows: Sequence[_Row]
    next: Cursor | None


@dataclass(frozen=True)
class JobRow:
    """A job, with its result where it succeeded."""

    job: Job
    result: Result | None


#: A job with its tenant's name, as the operator sees it.
TenantsJob = tuple[Job, str]
#: The errors that are the service's own fault: the same image may do well the next time.
DEAD = (ErrorCode.ATTEMPTS_EXHAUSTED, ErrorCode.INTERNAL)


@dataclass(frozen=True)
class DeliveryRow:
    """A webhook delivery with its tries, oldest first."""

    delivery: WebhookDelivery
    attempts: Sequence[WebhookAttempt]


def find_job(session: Session, tenant_id: UUID, job_id: UUID) -> JobRow | None:
    """Return a tenant's job; None where the tenant has none of this id."""
    found = session.execute(_jobs(tenant_id).where(Job.id == job_id)).one_or_none()
    return JobRow(found[0], found[1]) if found else None


def list_jobs(
    session: Session, tenant_id: UUID, *, only: Mapping[str, str], after: Cursor | None, limit: int
) -> Page[JobRow]:
    """Return a tenant's jobs, newest first; `only` maps columns to the value wanted.

    The numbers behind heatmaps stay in the database.
    """
    query = _jobs(tenant_id).options(defer(Result.feature_mean))
    if set(only) == {"state"} and only["state"] in _OPEN_JOBS:
        places = _places(session, _OPEN_JOBS[only["state"]], tenant_id, after, limit)
        found = session.execute(_newest_first(query.where(Job.id.in_([place.id for place in places.rows])), Job))
        # What has moved since the places were read is left out.
        return Page([JobRow(row[0], row[1]) for row in found if row[0].state == only["state"]], places.next)
    query = query.where(*(getattr(Job, column) == value for column, value in only.items()))
    rows = [JobRow(row[0], row[1]) for row in session.execute(_page(query, Job, after, limit))]
    return _cut(rows, limit, lambda row: Cursor(row.job.created_at, row.job.id))


def list_dead(session: Session, limit: int) -> list[TenantsJob]:
    """Return all tenants' jobs that failed for no fault of their image and were not replayed, newest first."""
    replays = aliased(Job)
    query = _tenants_jobs().where(Job.error_code.in_(DEAD), ~exists().where(replays.replay_of == Job.id).correlate(Job))
    return _all(session, query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit))


def list_open(session: Session, limit: int) -> list[TenantsJob]:
    """Return all tenants' jobs that wait or run, the next to expire first."""
    query = _tenants_jobs().where(Job.state.in_([JobState.QUEUED, JobState.RUNNING]))
    return _all(session, query.order_by(Job.deadline_at).limit(limit))


def find_jobs(session: Session, ids: Collection[UUID]) -> list[TenantsJob]:
    """Return these jobs, whoever's they are."""
    return _all(session, _tenants_jobs().where(Job.id.in_(ids)))


def find_delivery(session: Session, tenant_id: UUID, delivery_id: UUID) -> DeliveryRow | None:
    """Return a tenant's webhook delivery; None where the tenant has none of this id."""
    query = select(WebhookDelivery).where(WebhookDelivery.tenant_id == tenant_id, WebhookDelivery.id == delivery_id)
    shown = [each for each in session.scalars(query) if each.endpoint_id not in _deleted(session, tenant_id)]
    found = _with_attempts(session, shown)
    return found[0] if found else None


def list_deliveries(
    session: Session,
    tenant_id: UUID,
    *,
    only: Mapping[str, UUID | str],
    after: Cursor | None,
    limit: int,
) -> Page[DeliveryRow]:
    """Return a tenant's webhook deliveries, newest first; `only` maps columns to the value wanted."""
    state, endpoint_id = only.get("state"), only.get("endpoint_id")
    by_places = _PENDING_DELIVERIES if state == _PENDING else _OF_ENDPOINT if endpoint_id and not state else None
    deleted = _deleted(session, tenant_id)
    if by_places is None or "job_id" in only:
        query = select(WebhookDelivery).where(WebhookDelivery.tenant_id == tenant_id).filter_by(**only)
        query = query.where(WebhookDelivery.endpoint_id.not_in(deleted)) if deleted else query
        rows = _with_attempts(session, session.scalars(_page(query, WebhookDelivery, after, limit)).all())
        return _cut(rows, limit, lambda row: Cursor(row.delivery.created_at, row.delivery.id))
    places = _places(session, by_places, tenant_id, after, limit, endpoint_id)
    mine = select(WebhookDelivery).where(WebhookDelivery.id.in_([place.id for place in places.rows]))
    found = session.scalars(_newest_first(mine, WebhookDelivery)).all()
    shown = [each for each in found if state in (None, each.state) and each.endpoint_id not in deleted]
    return Page(_with_attempts(session, shown), places.next)


def _deleted(session: Session, tenant_id: UUID) -> Sequence[UUID]:
    """Return the endpoints of a tenant that are deleted, and whose deliveries are on their way out."""
    gone = WebhookEndpoint.deleted_at.is_not(None)
    return session.scalars(select(WebhookEndpoint.id).where(WebhookEndpoint.tenant_id == tenant_id, gone)).all()


def _places(
    session: Session, query: TextualSelect, tenant_id: UUID, after: Cursor | None, limit: int, endpoint: object = None
) -> Page[Cursor]:
    """Return where the rows of a page of what is open lie, from the tally and so past all that has ended."""
    values = {"tenant": tenant_id, "endpoint": endpoint, "most": limit + 1}
    values |= {"before": after.created_at, "before_id": after.id} if after else _FROM_THE_NEWEST
    places = [Cursor(created_at, identity) for identity, created_at in session.execute(query, values)]
    return _cut(places, limit, lambda place: place)


def _jobs(tenant_id: UUID) -> Select[Job, Result | None]:
    return select(Job, Result).outerjoin(Result, Result.job_id == Job.id).where(Job.tenant_id == tenant_id)


def _tenants_jobs() -> Select[Job, str]:
    return select(Job, Tenant.name).join(Tenant, Tenant.id == Job.tenant_id)


def _all(session: Session, query: Select[Job, str]) -> list[TenantsJob]:
    return [(job, tenant) for job, tenant in session.execute(query)]


def _page(
    query: Select[*tuple[Any, ...]], table: type[Job | WebhookDelivery], after: Cursor | None, limit: int
) -> Select[*tuple[Any, ...]]:
    """One row more than the page holds tells whether there is another page."""
    if after is not None:
        query = query.where(tuple_(table.created_at, table.id) < tuple_(after.created_at, after.id))
    return _newest_first(query, table).limit(limit + 1)


def _newest_first(query: Select[*tuple[Any, ...]], table: type[Job | WebhookDelivery]) -> Select[*tuple[Any, ...]]:
    return query.order_by(table.created_at.desc(), table.id.desc())


def _cut(rows: Sequence[_Row], limit: int, place: Callable[[_Row], Cursor]) -> Page[_Row]:
    shown = rows[:limit]
    return Page(shown, place(shown[-1]) if len(rows) > limit else None)


def _with_attempts(session: Session, deliveries: Sequence[WebhookDelivery]) -> list[DeliveryRow]:
    attempts: dict[UUID, list[WebhookAttempt]] = {delivery.id: [] for delivery in deliveries}
    query = select(WebhookAttempt).where(WebhookAttempt.delivery_id.in_(attempts)).order_by(WebhookAttempt.attempt)
    for attempt in session.scalars(query):
        attempts[attempt.delivery_id].append(attempt)
    return [DeliveryRow(delivery, attempts[delivery.id]) for delivery in deliveries]
