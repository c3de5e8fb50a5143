"""Reads jobs for display: one job, a page of a tenant's jobs, or the jobs that an operator asks for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, TextualSelect, Uuid, exists, select, text
from sqlalchemy.orm import Session, aliased

from shared.database.pagination import Cursor, Page, by_ids, cut_page, open_places, page_query
from shared.database.tables import JobRow, ResultRow, Tenant
from shared.domain import JobResult, JobState
from shared.errors import ErrorCode
from shared.jobs.results import from_row

# Open jobs are read through the tally: an index of all rows would also read the jobs that have ended.
_QUEUED = text("SELECT * FROM queued_jobs(:tenant, :before, :before_id, :most)").columns(id=Uuid)
_RUNNING = text("""
SELECT id, created_at FROM running_jobs WHERE tenant_id = :tenant AND (created_at, id) < (:before, :before_id)
ORDER BY created_at DESC, id DESC LIMIT :most
""").columns(id=Uuid)
_OPEN_JOBS: Mapping[str, TextualSelect] = {JobState.QUEUED: _QUEUED, JobState.RUNNING: _RUNNING}


@dataclass(frozen=True)
class JobAndResult:
    """A job, with its result where it succeeded."""

    job: JobRow
    result: JobResult | None


@dataclass(frozen=True)
class JobFilter:
    """Which of a tenant's jobs to list: those that meet all conditions. None or empty: no condition."""

    ids: Collection[UUID] = ()
    states: Collection[JobState] = ()
    error_code: ErrorCode | None = None
    client_ref: str | None = None
    prediction: str | None = None
    created_after: datetime | None = None
    """Exclusive, as `created_before` is."""
    created_before: datetime | None = None

    @property
    def possible(self) -> bool:
        """Whether any job can meet them: errors are of failed jobs, predictions of jobs that succeeded.

        For conditions that exclude each other, PostgreSQL would read all jobs that meet one of them.
        """
        possible = set(self.states) or set(JobState)
        if self.error_code is not None:
            possible &= {JobState.FAILED, JobState.EXPIRED}
        if self.prediction is not None:
            possible &= {JobState.SUCCEEDED}
        return bool(possible)


#: A job with its tenant's name, as the operator sees it.
TenantsJob = tuple[JobRow, str]
#: The errors that are the service's own fault: the same image may do well the next time.
DEAD = (ErrorCode.ATTEMPTS_EXHAUSTED, ErrorCode.INTERNAL)


def find_job(session: Session, tenant_id: UUID, job_id: UUID) -> JobAndResult | None:
    """Return a tenant's job; None where the tenant has none of this id."""
    found = session.execute(_jobs(tenant_id).where(JobRow.id == job_id)).one_or_none()
    return _job_row(found) if found else None


def list_jobs(
    session: Session, tenant_id: UUID, wanted: JobFilter, *, after: Cursor | None, limit: int
) -> Page[JobAndResult]:
    """Return the tenant's jobs that meet the filter, newest first."""
    if not wanted.possible:
        return Page([], None)
    found = [_places(session, tenant_id, wanted, state, after, limit) for state in wanted.states or (None,)]
    newest_first = sorted((place for places in found for place in places), key=_age, reverse=True)
    places = cut_page(newest_first, limit, lambda place: place)
    job = by_ids(JobRow, [place.id for place in places.rows])
    rows = session.execute(select(job, ResultRow).outerjoin(ResultRow, ResultRow.job_id == job.id))
    # What has changed its state since the places were read is left out.
    shown = {row[0].id: _job_row(row) for row in rows if not wanted.states or row[0].state in wanted.states}
    return Page([shown[place.id] for place in places.rows if place.id in shown], places.next)


def _age(place: Cursor) -> tuple[datetime, UUID]:
    return place.created_at, place.id


def _places(
    session: Session, tenant_id: UUID, wanted: JobFilter, state: JobState | None, after: Cursor | None, limit: int
) -> list[Cursor]:
    """Return the places of the newest jobs in one state, or in any, that follow `after`: at most one more than `limit`.

    One query for each state, because PostgreSQL reads one state of an index in the order of the list, but not several.
    """
    before = _earliest(after, wanted.created_before)
    if state is not None and state in _OPEN_JOBS and not wanted.ids and wanted.client_ref is None:
        found = open_places(session, _OPEN_JOBS[state], tenant_id, before, limit)
        return [place for place in found if wanted.created_after is None or place.created_at > wanted.created_after]
    table = by_ids(JobRow, wanted.ids) if wanted.ids else JobRow
    query = select(table.created_at, table.id).where(table.tenant_id == tenant_id, *_conditions(table, wanted, state))
    return [Cursor(*row) for row in session.execute(page_query(query, table, before, limit))]


def _earliest(after: Cursor | None, created_before: datetime | None) -> Cursor | None:
    """Return the place before which a page begins. No id is below that of a place with the id 0."""
    limits = [*([after] if after else []), *([Cursor(created_before, UUID(int=0))] if created_before else [])]
    return min(limits, key=_age, default=None)


def _conditions(table: type[JobRow], wanted: JobFilter, state: JobState | None) -> Iterator[ColumnElement[bool]]:
    equal = {"state": state, **{name: getattr(wanted, name) for name in ("error_code", "client_ref", "prediction")}}
    for column, value in equal.items():
        if value is not None:
            yield getattr(table, column) == value
    if wanted.created_after is not None:
        yield table.created_at > wanted.created_after


def list_dead(session: Session, limit: int) -> list[TenantsJob]:
    """Return all tenants' jobs that failed for no fault of their image and were not replayed, newest first."""
    replays = aliased(JobRow)
    query = _tenants_jobs().where(
        JobRow.error_code.in_(DEAD), ~exists().where(replays.replay_of == JobRow.id).correlate(JobRow)
    )
    return _all(session, query.order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(limit))


def list_open(session: Session, limit: int) -> list[TenantsJob]:
    """Return all tenants' jobs that wait or run, the next to expire first."""
    query = _tenants_jobs().where(JobRow.state.in_([JobState.QUEUED, JobState.RUNNING]))
    return _all(session, query.order_by(JobRow.deadline_at).limit(limit))


def find_jobs(session: Session, ids: Collection[UUID]) -> list[TenantsJob]:
    """Return these jobs, whoever's they are."""
    return _all(session, _tenants_jobs().where(JobRow.id.in_(ids)))


def _job_row(found: Row[JobRow, ResultRow | None]) -> JobAndResult:
    job, result = found
    return JobAndResult(job, from_row(result) if result else None)


def _jobs(tenant_id: UUID) -> Select[JobRow, ResultRow | None]:
    return (
        select(JobRow, ResultRow)
        .outerjoin(ResultRow, ResultRow.job_id == JobRow.id)
        .where(JobRow.tenant_id == tenant_id)
    )


def _tenants_jobs() -> Select[JobRow, str]:
    return select(JobRow, Tenant.name).join(Tenant, Tenant.id == JobRow.tenant_id)


def _all(session: Session, query: Select[JobRow, str]) -> list[TenantsJob]:
    return [(job, tenant) for job, tenant in session.execute(query)]
