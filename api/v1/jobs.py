"""Jobs over HTTP: submit, read, list, cancel."""

from __future__ import annotations

import re
from contextlib import suppress
from hashlib import blake2b
from typing import Any
from uuid import UUID, uuid4

from apiflask import APIBlueprint
from flask import Response, jsonify, request

from api.auth import caller, needs
from api.dependencies import resources
from api.problems.table import (
    ARTIFACT_NOT_FOUND,
    BODY_TOO_LARGE,
    CORRUPT_IMAGE,
    DECOMPRESSION_BOMB,
    DISK_FULL,
    IDEMPOTENCY_KEY_REUSED,
    IMAGE_EMPTY,
    IMAGE_REQUIRED,
    IMAGE_TOO_LARGE,
    INVALID_FIELD,
    JOB_ALREADY_FINISHED,
    JOB_NOT_ENDED,
    JOB_NOT_REPLAYABLE,
    MALFORMED_REQUEST,
    MULTIPART_REQUIRED,
    NOT_FOUND,
    QUOTA_EXCEEDED,
    SERVICE_OVERLOADED,
    STORE_UNAVAILABLE,
    TOO_MANY_IMAGES,
    TOO_MANY_OPEN_JOBS,
    UNKNOWN_FIELD,
    UNKNOWN_MODEL,
    UNKNOWN_POLICY,
    UNSUPPORTED_MEDIA_TYPE,
    ApiError,
    field_error,
    or_not_found,
)
from api.v1.heatmap_stream import stream_with_scores
from api.v1.pages import present_page
from api.v1.responses import NO_CONTENT, answer, refusals
from api.v1.schemas.jobs import IDEMPOTENCY_HEADER, IDEMPOTENCY_KEY, Accepted, Job, JobPage, JobQuery, JobsQuery
from api.v1.schemas.submission import check_model
from api.v1.submission_form import Upload, read_upload
from shared.database.tables import JobRow
from shared.domain import JobState, NewJob
from shared.errors import DatabaseUnavailableError, StoreUnavailableError
from shared.jobs import lifecycle, retention
from shared.jobs.queries import JobAndResult, find_job, list_jobs
from shared.presenter import present_job
from shared.storage.object_store import source_key
from shared.tenants.api_keys import Scope

jobs_blueprint = APIBlueprint("jobs", __name__, url_prefix="/v1/jobs")

#: Seconds after which a client should ask again.
_POLL_AFTER = "1"

_SUBMIT_REFUSALS = refusals(
    MALFORMED_REQUEST, BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE, MULTIPART_REQUIRED, IMAGE_REQUIRED, IMAGE_EMPTY,
    TOO_MANY_IMAGES, IMAGE_TOO_LARGE, DECOMPRESSION_BOMB, CORRUPT_IMAGE, UNKNOWN_FIELD, INVALID_FIELD, UNKNOWN_MODEL,
    UNKNOWN_POLICY, IDEMPOTENCY_KEY_REUSED, TOO_MANY_OPEN_JOBS, QUOTA_EXCEEDED, STORE_UNAVAILABLE, SERVICE_OVERLOADED,
    DISK_FULL,
)  # fmt: skip
_CAPACITY_REFUSALS = (TOO_MANY_OPEN_JOBS, QUOTA_EXCEEDED, SERVICE_OVERLOADED)


@jobs_blueprint.post("")
@jobs_blueprint.doc(
    tags=["Jobs"],
    responses=answer(Accepted, "The job is committed and will run.", 202, "Location", "Retry-After") | _SUBMIT_REFUSALS,
)
@needs(Scope.SUBMIT)
def submit() -> tuple[dict[str, Any], int, dict[str, str]]:
    """Submit an image.

    The answer is sent when the image is stored and the job is committed: an accepted job is never lost. Under the same
    `Idempotency-Key`, the same submission is the same job, however often it is sent.
    """
    around = resources()
    key = _idempotency_key()
    around.submissions.check_capacity(caller().tenant_id, key)
    with read_upload(request, around.settings) as upload:
        return _accepted(around.submissions.accept(_new_job(upload, key), upload.stream))


@jobs_blueprint.get("")
@jobs_blueprint.input(JobsQuery, location="query", arg_name="query")
@jobs_blueprint.doc(tags=["Jobs"], responses=answer(JobPage, "One page, newest first."))
@needs(Scope.READ)
def index(query: JobsQuery) -> dict[str, Any]:
    """List your jobs, newest first."""
    with resources().database.begin() as session:
        page = list_jobs(session, caller().tenant_id, query.filter(), after=query.after, limit=query.limit)
        return present_page(page, lambda row: present_job(row.job, row.result))


@jobs_blueprint.get("/<uuid:job_id>")
@jobs_blueprint.input(JobQuery, location="query", arg_name="query")
@jobs_blueprint.doc(
    tags=["Jobs"],
    responses=answer(Job, "The job.", 200, "ETag", "Retry-After")
    | {304: {"description": "The job has not changed since the answer with this `ETag`."}}
    | refusals(NOT_FOUND),
)
@needs(Scope.READ)
def show(job_id: UUID, query: JobQuery) -> Response:
    """Show a job, with its result or error once it has ended; until then, `Retry-After` says when to ask again.

    A request whose `If-None-Match` has the `ETag` of the last answer is answered 304 while nothing has changed.
    """
    row = own_job(job_id)
    document = present_job(row.job, row.result)
    if query.include and row.result:
        return stream_with_scores(document, row.result)
    response = jsonify(document)
    response.set_etag(blake2b(response.get_data(), digest_size=12).hexdigest(), weak=True)
    if not row.job.state.terminal:
        response.headers["Retry-After"] = _POLL_AFTER
    response.make_conditional(request)
    return response


@jobs_blueprint.post("/<uuid:job_id>/cancel")
@jobs_blueprint.doc(
    tags=["Jobs"], responses=answer(Job, "The job is canceled.") | refusals(NOT_FOUND, JOB_ALREADY_FINISHED)
)
@needs(Scope.SUBMIT)
def cancel(job_id: UUID) -> dict[str, Any]:
    """Cancel a job that has not ended.

    A job that is canceled already is answered in the same way; one that has ended otherwise is a conflict.
    """
    with resources().database.begin() as session:
        job = or_not_found(lifecycle.cancel(session, caller().tenant_id, job_id))
        if job.state != JobState.CANCELED:
            raise ApiError(JOB_ALREADY_FINISHED, f"The job is {job.state}.")
        return present_job(job, None)


@jobs_blueprint.post("/<uuid:job_id>/replay")
@jobs_blueprint.doc(
    tags=["Jobs"],
    responses=answer(Accepted, "The new job is committed and will run.", 202, "Location", "Retry-After")
    | refusals(
        NOT_FOUND, ARTIFACT_NOT_FOUND, JOB_NOT_REPLAYABLE, UNKNOWN_MODEL, UNKNOWN_POLICY, IDEMPOTENCY_KEY_REUSED,
        STORE_UNAVAILABLE, *_CAPACITY_REFUSALS,
    ),
)  # fmt: skip
@needs(Scope.SUBMIT)
def replay(job_id: UUID) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Run a job that failed or expired again, as a new job.

    The new job has the same image and options, and names the old one in `replay_of`; the old one stays as it is.
    """
    who, key, job = caller(), _idempotency_key(), own_job(job_id).job
    if not job.state.replayable:
        raise ApiError(JOB_NOT_REPLAYABLE, f"The job is {job.state}.")
    check_model(job.model, resources().settings)
    return _accepted(resources().submissions.replay(job, priority=who.priority, key_id=who.key_id, idempotency_key=key))


@jobs_blueprint.delete("/<uuid:job_id>")
@jobs_blueprint.doc(tags=["Jobs"], responses=NO_CONTENT | refusals(NOT_FOUND, JOB_NOT_ENDED))
@needs(Scope.SUBMIT)
def delete(job_id: UUID) -> tuple[str, int]:
    """Delete a job that has ended, with its image, its pictures and its webhooks.

    The job is gone at once. If the object store does not answer, the service erases the files later.
    """
    around = resources()
    with around.database.begin() as session:
        job = or_not_found(retention.delete_job(session, caller().tenant_id, job_id))
        if not job.state.terminal:
            raise ApiError(JOB_NOT_ENDED, f"The job is {job.state}.")
    with suppress(StoreUnavailableError, DatabaseUnavailableError):  # the erasure is a row, which retention finds
        retention.erase(around.database, around.store, caller().tenant_id, job_id)
    return "", 204


def own_job(job_id: UUID) -> JobAndResult:
    """Return the caller's job; raise `ApiError` (404) if it has none of this id, even if another tenant has."""
    with resources().database.begin() as session:
        return or_not_found(find_job(session, caller().tenant_id, job_id))


def _idempotency_key() -> str | None:
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is not None and not re.fullmatch(IDEMPOTENCY_KEY, key):
        raise field_error(IDEMPOTENCY_HEADER, "must be 1 to 255 visible ASCII characters")
    return key


def _new_job(upload: Upload, key: str | None) -> NewJob:
    who, job_id = caller(), uuid4()
    return NewJob(
        id=job_id,
        tenant_id=who.tenant_id,
        source_key=source_key(who.tenant_id, job_id),
        source_sha256=upload.sha256,
        source_bytes=upload.size,
        media_type=upload.media_type,
        options=upload.options,
        priority=who.priority,
        key_id=who.key_id,
        idempotency_key=key,
    )


def _accepted(job: JobRow) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Wake a worker for an accepted job, and return the answer that the job is accepted."""
    resources().wakeups.put(job.id)
    document = present_job(job, None)
    told = {name: document[name] for name in ("id", "status", "created_at", "links")}
    return told, 202, {"Location": told["links"]["self"], "Retry-After": _POLL_AFTER}
