"""What a job left in the object store, and its heatmap at any size."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, jsonify, request

from api.heatmaps import feature_mean, stream_heatmap
from api.jobs import own_job
from api.openapi import file_answer, refusals
from api.problems import (
    ARTIFACT_NOT_FOUND,
    JOB_NOT_FINISHED,
    NOT_FOUND,
    STORE_UNAVAILABLE,
    ApiError,
    field_error,
)
from api.resources import resources
from api.schemas import ArtifactQuery, Heatmap, HeatmapQuery, Link
from shared.jobs import PICTURES, SOURCE, Artifact, JobState
from shared.listing import JobRow
from shared.object_store import LINK_LIFETIME
from shared.pictures import Region, heatmap_png
from shared.presenter import timestamp
from shared.tables import Result

artifacts_blueprint = APIBlueprint("artifacts", __name__, url_prefix="/v1/jobs")

_EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/bmp": "bmp",
    "image/tiff": "tiff",
    "image/avif": "avif",
}
_NAMES = ", ".join((*PICTURES, SOURCE))


@artifacts_blueprint.get(f"/<uuid:job_id>/artifacts/<any({_NAMES}):name>")
@artifacts_blueprint.input(ArtifactQuery, location="query", arg_name="query")
@artifacts_blueprint.doc(
    tags=["Artifacts"],
    responses=file_answer("The file, or a link to it.", *_EXTENSIONS, also=Link)
    | {304: {"description": "The file that the client has is the same."}}
    | refusals(NOT_FOUND, ARTIFACT_NOT_FOUND, JOB_NOT_FINISHED, STORE_UNAVAILABLE),
)
def artifact(job_id: UUID, name: str, query: ArtifactQuery) -> Response:
    """Fetch a picture of a job, or the image that was submitted.

    The submitted image is always sent as a download: it is whatever its sender made it.
    """
    row = own_job(job_id)
    found = _artifact(row, name)
    if query.link:
        expires_at = datetime.now(UTC) + LINK_LIFETIME
        return jsonify(url=resources().store.link(found.key), expires_at=timestamp(expires_at))
    if found.sha256 in request.if_none_match:
        return _with_headers(Response(status=304), found, name)
    response = Response(_content(found.key), mimetype=found.media_type)
    response.content_length = found.bytes
    return _with_headers(response, found, name)


@artifacts_blueprint.get("/<uuid:job_id>/heatmap")
@artifacts_blueprint.input(HeatmapQuery, location="query", arg_name="query")
@artifacts_blueprint.doc(
    tags=["Artifacts"],
    responses=file_answer("The numbers, or their picture.", "image/png", also=Heatmap)
    | refusals(NOT_FOUND, ARTIFACT_NOT_FOUND, JOB_NOT_FINISHED),
)
def heatmap(job_id: UUID, query: HeatmapQuery) -> Response:
    """Where the detector looked, at any size: a number in [0, 1] for each pixel, or colours.

    The whole image is covered, as the published formula has it; the artifact `heatmap` shows it on the analysed region.
    """
    result = _result(own_job(job_id))
    width, height = query.width or result.width, query.height or result.height
    most = resources().settings.max_pixels
    if width * height > most:
        raise field_error("width", f"width times height may be at most {most}")
    if query.format == "png":
        png = heatmap_png(feature_mean(result), width, height, Region(0, 0, width, height))
        return Response(png, mimetype="image/png")
    return stream_heatmap(result, width, height)


def _artifact(row: JobRow, name: str) -> Artifact:
    job = row.job
    if name == SOURCE:
        return Artifact(job.source_key, job.source_bytes, job.source_sha256, job.media_type)
    stored = _result(row).artifacts.get(name)
    if stored is None:
        raise ApiError(ARTIFACT_NOT_FOUND, f"The job was submitted with {name}=false.")
    return Artifact(**stored)


def _result(row: JobRow) -> Result:
    if row.result is not None:
        return row.result
    if JobState(row.job.state).terminal:
        raise ApiError(ARTIFACT_NOT_FOUND, f"The job is {row.job.state}: it has no result.")
    raise ApiError(JOB_NOT_FINISHED, f"The job is {row.job.state}.", headers={"Retry-After": "1"})


def _content(key: str) -> Iterable[bytes]:
    """A HEAD request opens nothing: its answer is never read, so nobody would close it."""
    return () if request.method == "HEAD" else resources().store.stream(key)


def _with_headers(response: Response, found: Artifact, name: str) -> Response:
    response.set_etag(found.sha256)
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable"  # a key is written once
    extension = _EXTENSIONS.get(found.media_type, "bin")
    kind = "attachment" if name == SOURCE else "inline"
    response.headers["Content-Disposition"] = f'{kind}; filename="{name}.{extension}"'  # never the sender's name
    return response
