"""The stored files of a job, and its heatmap at any size."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, jsonify, request

from api.auth import needs
from api.dependencies import resources
from api.problems.table import (
    ARTIFACT_NOT_FOUND,
    JOB_NOT_FINISHED,
    NOT_FOUND,
    STORE_UNAVAILABLE,
    ApiError,
    field_error,
)
from api.v1.heatmap_stream import drawn_mean, stream_heatmap
from api.v1.jobs import own_job
from api.v1.responses import answer, file_answer, refusals
from api.v1.schemas.jobs import ArtifactQuery, Heatmap, HeatmapPictureQuery, HeatmapQuery, Link
from shared.domain import PICTURES, PREVIEW, SOURCE, Artifact, JobResult, Region
from shared.images.scaling import scaled_down
from shared.images.visualizations import heatmap_png
from shared.jobs.queries import JobAndResult
from shared.presenter import timestamp
from shared.storage.object_store import LINK_LIFETIME
from shared.tenants.api_keys import Scope

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
#: The number of pictures that this process scales at once.
_scaling = threading.BoundedSemaphore(2)


@artifacts_blueprint.get(f"/<uuid:job_id>/artifacts/<any({_NAMES}):name>")
@artifacts_blueprint.input(ArtifactQuery, location="query", arg_name="query")
@artifacts_blueprint.doc(
    tags=["Artifacts"],
    responses=file_answer("The file.", *_EXTENSIONS)
    | {304: {"description": "The file that the client has is the same."}}
    | refusals(NOT_FOUND, ARTIFACT_NOT_FOUND, JOB_NOT_FINISHED, STORE_UNAVAILABLE),
)
@needs(Scope.READ)
def artifact(job_id: UUID, name: str, query: ArtifactQuery) -> Response:
    """Fetch a picture of a job, or the image that was submitted.

    The submitted image is always sent as a download, because nobody has checked its bytes. To show it, fetch
    `preview`. With `max_side`, a picture is scaled down, so that a list of jobs can show thumbnails.
    """
    found = _artifact(own_job(job_id), name)
    if query.link:
        return jsonify(_link(found))
    if query.max_side is not None and name == SOURCE:
        raise field_error("max_side", f"the upload is not scaled; ask for the artifact `{PREVIEW}` instead")
    etag = found.sha256 if query.max_side is None else f"{found.sha256}-{query.max_side}"
    if etag in request.if_none_match:
        return _with_headers(Response(status=304), found, name, etag)
    if query.max_side is not None:
        response = Response(_scaled(found.key, query.max_side), mimetype=found.media_type)
    else:
        response = Response(_content(found.key), mimetype=found.media_type)
        response.content_length = found.bytes
    return _with_headers(response, found, name, etag)


@artifacts_blueprint.get(f"/<uuid:job_id>/artifacts/<any({_NAMES}):name>/link")
@artifacts_blueprint.doc(
    tags=["Artifacts"],
    responses=answer(Link, "The link.") | refusals(NOT_FOUND, ARTIFACT_NOT_FOUND, JOB_NOT_FINISHED, STORE_UNAVAILABLE),
)
@needs(Scope.READ)
def link(job_id: UUID, name: str) -> Response:
    """Make a link to a picture of a job, or to the image that was submitted, that needs no key, for five minutes."""
    return jsonify(_link(_artifact(own_job(job_id), name)))


@artifacts_blueprint.get("/<uuid:job_id>/heatmap")
@artifacts_blueprint.input(HeatmapQuery, location="query", arg_name="query")
@artifacts_blueprint.doc(
    tags=["Artifacts"],
    responses=answer(Heatmap, "The numbers.") | refusals(NOT_FOUND, ARTIFACT_NOT_FOUND, JOB_NOT_FINISHED),
)
@needs(Scope.READ)
def heatmap(job_id: UUID, query: HeatmapQuery) -> Response:
    """Show where the detector looked, at any size: a number in [0, 1] for each pixel.

    With `region=image` they cover the whole image, as the published formula has it, although the detector sees no more
    than the analysed region; with `region=analyzed` they cover that region, as the pictures do.
    """
    result = _result(own_job(job_id))
    region = _region(result, query)
    width, height = _size(query, region)
    if query.format == "png":
        return _heatmap_picture(result, width, height)
    return stream_heatmap(result, region, width, height)


@artifacts_blueprint.get("/<uuid:job_id>/heatmap.png")
@artifacts_blueprint.input(HeatmapPictureQuery, location="query", arg_name="query")
@artifacts_blueprint.doc(
    tags=["Artifacts"],
    responses=file_answer("The picture.", "image/png") | refusals(NOT_FOUND, ARTIFACT_NOT_FOUND, JOB_NOT_FINISHED),
)
@needs(Scope.READ)
def heatmap_picture(job_id: UUID, query: HeatmapPictureQuery) -> Response:
    """Show the numbers of `heatmap` as colours, low to high."""
    result = _result(own_job(job_id))
    return _heatmap_picture(result, *_size(query, _region(result, query)))


def _region(result: JobResult, query: HeatmapPictureQuery) -> Region:
    """Return the rectangle of the image that the numbers cover."""
    image = result.image
    return image.region if query.region == "analyzed" else Region(0, 0, image.width, image.height)


def _size(query: HeatmapPictureQuery, region: Region) -> tuple[int, int]:
    """Return the columns and rows that are asked for; a side that is left out follows from the region's proportions."""
    if query.width is None and query.height is not None:
        width, height = max(round(query.height * region.width / region.height), 1), query.height
    else:
        width = query.width or region.width
        height = query.height or max(round(width * region.height / region.width), 1)
    most = resources().settings.max_pixels
    if width * height > most:
        raise field_error("width", f"width times height may be at most {most}")
    return width, height


def _heatmap_picture(result: JobResult, width: int, height: int) -> Response:
    png = heatmap_png(drawn_mean(result), width, height, Region(0, 0, width, height))
    return Response(png, mimetype="image/png")


def _link(found: Artifact) -> dict[str, str | None]:
    expires_at = datetime.now(UTC) + LINK_LIFETIME
    return {"url": resources().store.link(found.key), "expires_at": timestamp(expires_at)}


def _artifact(row: JobAndResult, name: str) -> Artifact:
    job = row.job
    if name == SOURCE:
        return Artifact(job.source_key, job.source_bytes, job.source_sha256, job.media_type)
    stored = _result(row).artifacts.get(name)
    if stored is None:
        raise ApiError(ARTIFACT_NOT_FOUND, f"The job has no {name}.")
    return stored


def _result(row: JobAndResult) -> JobResult:
    if row.result is not None:
        return row.result
    if row.job.state.terminal:
        raise ApiError(ARTIFACT_NOT_FOUND, f"The job is {row.job.state}: it has no result.")
    raise ApiError(JOB_NOT_FINISHED, f"The job is {row.job.state}.", headers={"Retry-After": "1"})


def _content(key: str) -> Iterable[bytes]:
    """Return the object's bytes. A HEAD request opens nothing: nobody reads its answer, so nobody would close it."""
    return () if request.method == "HEAD" else resources().store.stream(key)


def _scaled(key: str, max_side: int) -> bytes:
    """Return a picture scaled down. Few at once: each is decoded whole, and may have as many pixels as the upload."""
    with _scaling:
        return scaled_down(resources().store.get(key), max_side)


def _with_headers(response: Response, found: Artifact, name: str, etag: str) -> Response:
    response.set_etag(etag)
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable"  # a key is written once
    extension = _EXTENSIONS.get(found.media_type, "bin")
    kind = "attachment" if name == SOURCE else "inline"
    response.headers["Content-Disposition"] = f'{kind}; filename="{name}.{extension}"'  # never the sender's name
    return response
