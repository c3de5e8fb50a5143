"""Reads jobs for display: one job, a page of a tenant's jobs, or the jobs that an operator asks for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Row, Select, TextualSelect, Uuid, exists, select, text
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


#: A job with its tenant's name, as the operator sees it.
TenantsJob = tuple[JobRow, str]
#: The errors that are the service's own fault: the same image may do well the next time.
DEAD = (ErrorCode.ATTEMPTS_EXHAUSTED, ErrorCode.INTERNAL)


def find_job(session: Session, tenant_id: UUID, job_id: UUID) -> JobAndResult | None:
    """Return a tenant's job; None where the tenant has none of this id."""
    found = session.execute(_jobs(tenant_id).where(JobRow.id == job_id)).one_or_none()
    return _job_row(found) if found else None


def list_jobs(
    session: Session, tenant_id: UUID, *, only: Mapping[str, str], after: Cursor | None, limit: int
) -> Page[JobAndResult]:
    """Return a tenant's jobs, newest first; `only` maps columns to the value wanted."""
    if set(only) == {"state"} and only["state"] in _OPEN_JOBS:
        places = open_places(session, _OPEN_JOBS[only["state"]], tenant_id, after, limit)
        job = by_ids(JobRow, [place.id for place in places.rows])
        found = session.execute(select(job, ResultRow).outerjoin(ResultRow, ResultRow.job_id == job.id))
        # What has moved since the places were read is left out.
        shown = {row[0].id: _job_row(row) for row in found if row[0].state == only["state"]}
        return Page([shown[place.id] for place in places.rows if place.id in shown], places.next)
    query = _jobs(tenant_id).where(*(getattr(JobRow, column) == value for column, value in only.items()))
    rows = [_job_row(row) for row in session.execute(page_query(query, JobRow, after, limit))]
    return cut_page(rows, limit, lambda row: Cursor(row.job.created_at, row.job.id))


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
