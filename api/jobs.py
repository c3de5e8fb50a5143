"""Jobs over HTTP: submit, read, list, cancel."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog
from apiflask import APIBlueprint
from flask import Response, request, url_for

from api.auth import caller
from api.heatmaps import stream_with_scores
from api.openapi import answer, refusals
from api.problems import (
    BODY_TOO_LARGE,
    CORRUPT_IMAGE,
    DECOMPRESSION_BOMB,
    IDEMPOTENCY_KEY_REUSED,
    IMAGE_EMPTY,
    IMAGE_REQUIRED,
    IMAGE_TOO_LARGE,
    INVALID_FIELD,
    JOB_ALREADY_FINISHED,
    MALFORMED_REQUEST,
    MULTIPART_REQUIRED,
    NOT_FOUND,
    STORE_UNAVAILABLE,
    TOO_MANY_IMAGES,
    UNKNOWN_FIELD,
    UNKNOWN_MODEL,
    UNSUPPORTED_MEDIA_TYPE,
    ApiError,
    field_error,
)
from api.resources import Resources, resources
from api.schemas import IDEMPOTENCY_HEADER, IDEMPOTENCY_KEY, Accepted, Job, JobPage, JobQuery, JobsQuery
from api.uploads import Upload, read_upload
from shared import lifecycle
from shared.errors import DatabaseUnavailableError, KeyTakenError, StoreUnavailableError
from shared.idempotency import KeyReusedError, earlier_job
from shared.jobs import JobState, NewJob
from shared.listing import JobRow, find_job, list_jobs
from shared.object_store import source_key
from shared.presenter import present_job
from shared.tables import Job as JobTable

jobs_blueprint = APIBlueprint("jobs", __name__, url_prefix="/v1/jobs")

#: Seconds after which polling makes sense.
_POLL_AFTER = "1"

_log = structlog.get_logger(__name__)

_SUBMIT_REFUSALS = refusals(
    MALFORMED_REQUEST, BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE, MULTIPART_REQUIRED, IMAGE_REQUIRED, IMAGE_EMPTY,
    TOO_MANY_IMAGES, IMAGE_TOO_LARGE, DECOMPRESSION_BOMB, CORRUPT_IMAGE, UNKNOWN_FIELD, INVALID_FIELD, UNKNOWN_MODEL,
    IDEMPOTENCY_KEY_REUSED, STORE_UNAVAILABLE,
)  # fmt: skip


@jobs_blueprint.post("")
@jobs_blueprint.doc(
    tags=["Jobs"],
    responses=answer(Accepted, "The job is committed and will run.", 202, "Location", "Retry-After") | _SUBMIT_REFUSALS,
)
def submit() -> tuple[dict[str, Any], int, dict[str, str]]:
    """Submit an image.

    The answer is sent when the image is stored and the job is committed: an accepted job is never lost. Under the same
    `Idempotency-Key`, the same submission is the same job, however often it is sent.
    """
    around = resources()
    key = _idempotency_key()
    with read_upload(request, around.settings) as upload:
        job = _accept(around, upload, key)
    around.doorbell.ring(job.id)
    document = present_job(job, None)
    accepted = {name: document[name] for name in ("id", "status", "created_at", "links")}
    return accepted, 202, {"Location": accepted["links"]["self"], "Retry-After": _POLL_AFTER}


@jobs_blueprint.get("")
@jobs_blueprint.input(JobsQuery, location="query", arg_name="query")
@jobs_blueprint.doc(tags=["Jobs"], responses=answer(JobPage, "One page, newest first."))
def index(query: JobsQuery) -> dict[str, Any]:
    """List your jobs, newest first."""
    with resources().database.begin() as session:
        page = list_jobs(session, caller().tenant_id, state=query.status, after=query.after, limit=query.limit)
        items = [present_job(row.job, row.result) for row in page.rows]
    return {"items": items, "links": page_links(page.next.encode() if page.next else None)}


@jobs_blueprint.get("/<uuid:job_id>")
@jobs_blueprint.input(JobQuery, location="query", arg_name="query")
@jobs_blueprint.doc(tags=["Jobs"], responses=answer(Job, "The job.") | refusals(NOT_FOUND))
def show(job_id: UUID, query: JobQuery) -> dict[str, Any] | Response:
    """Show a job: where it stands, and its result or error once it has ended."""
    row = own_job(job_id)
    document = present_job(row.job, row.result)
    if query.include and row.result:
        return stream_with_scores(document, row.result)
    return document


@jobs_blueprint.post("/<uuid:job_id>/cancel")
@jobs_blueprint.doc(
    tags=["Jobs"], responses=answer(Job, "The job is canceled.") | refusals(NOT_FOUND, JOB_ALREADY_FINISHED)
)
def cancel(job_id: UUID) -> dict[str, Any]:
    """Cancel a job that has not ended.

    A job that is canceled already is answered in the same way; one that has ended otherwise is a conflict.
    """
    with resources().database.begin() as session:
        job = lifecycle.cancel(session, caller().tenant_id, job_id)
        if job is None:
            raise ApiError(NOT_FOUND)
        if job.state != JobState.CANCELED:
            raise ApiError(JOB_ALREADY_FINISHED, f"The job is {job.state}.")
        return present_job(job, None)


def own_job(job_id: UUID) -> JobRow:
    """Return the caller's job; raise `ApiError` (404) where it has none of this id, whoever else may."""
    with resources().database.begin() as session:
        row = find_job(session, caller().tenant_id, job_id)
    if row is None:
        raise ApiError(NOT_FOUND)
    return row


def page_links(cursor: str | None) -> dict[str, str | None]:
    """Return the links of a page: this request again, and the same with the cursor of the next page."""
    here: dict[str, Any] = request.args.to_dict()
    endpoint = str(request.endpoint)
    following = url_for(endpoint, **{**here, "cursor": cursor}) if cursor else None
    return {"self": url_for(endpoint, **here), "next": following}


def _idempotency_key() -> str | None:
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is not None and not re.fullmatch(IDEMPOTENCY_KEY, key):
        raise field_error(IDEMPOTENCY_HEADER, "must be 1 to 255 visible ASCII characters")
    return key


def _accept(around: Resources, upload: Upload, key: str | None) -> JobTable:
    """Return the job of this submission: a new one, or the one that it made when it came before."""
    who, job_id = caller(), uuid4()
    new = NewJob(
        id=job_id,
        tenant_id=who.tenant_id,
        source_key=source_key(who.tenant_id, job_id),
        source_sha256=upload.sha256,
        source_bytes=upload.size,
        media_type=upload.media_type,
        pictures=upload.pictures,
        model=upload.model,
        priority=who.priority,
        metadata=upload.metadata,
        idempotency_key=key,
    )
    try:
        return _earlier(around, new) or _create(around, new, upload)
    except KeyTakenError:  # by the same submission, which came beside this one
        job = _earlier(around, new)
        if job is None:
            raise
        return job


def _earlier(around: Resources, new: NewJob) -> JobTable | None:
    if new.idempotency_key is None:
        return None
    try:
        with around.database.begin() as session:
            return earlier_job(session, new)
    except KeyReusedError as error:
        raise ApiError(IDEMPOTENCY_KEY_REUSED, error.message) from None


def _create(around: Resources, new: NewJob, upload: Upload) -> JobTable:
    """Store the image, then commit the job: a committed job's image is always there."""
    around.store.put(new.source_key, upload.stream, upload.size, upload.media_type)
    try:
        with around.database.begin() as session:
            return lifecycle.create(session, new, deadline=timedelta(hours=around.settings.deadline_hours))
    except DatabaseUnavailableError:
        # The connection may have broken after the commit. A job without its image is worse than an image alone.
        _log.warning("upload_may_be_left_over", key=new.source_key)
        raise
    except Exception:
        _discard(around, new.source_key)
        raise


def _discard(around: Resources, key: str) -> None:
    """Remove the image of a job that was not committed; what cannot be removed now is only left over."""
    try:
        around.store.delete(key)
    except StoreUnavailableError:
        _log.warning("upload_left_over", key=key)
