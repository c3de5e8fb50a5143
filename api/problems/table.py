"""Every refusal of the API: one table of them, and one document (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import json

from shared.errors import DistildireError

MEDIA_TYPE = "application/problem+json"
#: Seconds after which a client should try again what failed because a server is down.
RETRY_AFTER = "5"
#: What pydantic puts before the messages of our validators.
VALUE_ERROR = "Value error, "

_T = TypeVar("_T")


@dataclass(frozen=True)
class Problem:
    """One kind of refusal: the parts that are the same each time."""

    status: int
    code: str
    title: str
    remedy: str

    @property
    def type(self) -> str:
        """The `type` of RFC 9457, a URI reference: where the documentation explains this kind."""
        return f"/docs#problem-{self.code}"


MALFORMED_REQUEST = Problem(
    400, "malformed_request", "The request cannot be read", "Check that the body is complete and of its content type."
)
KEY_MISSING = Problem(401, "key_missing", "No API key", "Send the header `Authorization: Bearer dd_…`.")
KEY_INVALID = Problem(
    401,
    "key_invalid",
    "Not a valid API key",
    "Check the key. The operator can make a new one: `distildire keys create`.",
)
OPERATOR_ONLY = Problem(
    403,
    "operator_only",
    "Only for the operator",
    "Use an operator's key: `distildire keys create --operator` makes one.",
)
SCOPE_MISSING = Problem(
    403,
    "scope_missing",
    "The key lacks a scope",
    "Use a key that has the scope that `detail` names. A key with the scope `admin` can make one: POST /v1/keys.",
)
NOT_FOUND = Problem(404, "not_found", "Not found", "Check the path and the id.")
ARTIFACT_NOT_FOUND = Problem(
    404,
    "artifact_not_found",
    "The job has no such file",
    "Read the job's `artifacts`: a picture exists only if the request asked for it and the job succeeded.",
)
METHOD_NOT_ALLOWED = Problem(
    405, "method_not_allowed", "The path does not accept this method", "Use a method that the header `Allow` lists."
)
REQUEST_TIMEOUT = Problem(408, "request_timeout", "The request arrived too slowly", "Send the request again.")
JOB_ALREADY_FINISHED = Problem(
    409, "job_already_finished", "The job has ended", "Read the job's `status`. A job that has ended does not change."
)
JOB_NOT_FINISHED = Problem(
    409, "job_not_finished", "The job has no result yet", "Ask again when the job's status is `succeeded`."
)
JOB_NOT_ENDED = Problem(
    409, "job_not_ended", "The job has not ended", "Cancel the job first, or wait until it has ended."
)
JOB_NOT_REPLAYABLE = Problem(
    409,
    "job_not_replayable",
    "The job has not failed",
    "Only a job that failed or expired can be replayed. Submit the image again instead.",
)
TOO_MANY_ENDPOINTS = Problem(
    409,
    "too_many_endpoints",
    "The tenant has the most webhook endpoints that are allowed",
    "Delete an endpoint that you no longer use.",
)
TOO_MANY_KEYS = Problem(
    409, "too_many_keys", "The tenant has the most API keys that are allowed", "Revoke a key that you no longer use."
)
DELIVERY_PENDING = Problem(
    409, "delivery_pending", "The delivery has not ended", "Wait: the service tries it again at `next_attempt_at`."
)
ENDPOINT_DISABLED = Problem(
    409, "endpoint_disabled", "The webhook endpoint is disabled", "Enable it: POST /v1/webhook-endpoints/{id}/enable."
)
BODY_TOO_LARGE = Problem(413, "body_too_large", "The request is too large", "Scale the image down or compress it more.")
URL_TOO_LONG = Problem(414, "url_too_long", "The URL is too long", "Send long values in the body, not in the URL.")
UNSUPPORTED_MEDIA_TYPE = Problem(
    415,
    "unsupported_media_type",
    "The file is not an accepted kind of image",
    "Send a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF file. The file's first bytes decide, not its name.",
)
MULTIPART_REQUIRED = Problem(
    415,
    "multipart_required",
    "The request is not a form with a file",
    "Send `multipart/form-data` with the file in the field `image`.",
)
IMAGE_TOO_LARGE = Problem(422, "image_too_large", "The image is too large", "Scale the image down.")
DECOMPRESSION_BOMB = Problem(
    422,
    "decompression_bomb",
    "The file would decompress to far too much data",
    "Encode the image again, and send that file.",
)
CORRUPT_IMAGE = Problem(422, "corrupt_image", "The image is damaged", "Upload it again from its source.")
IMAGE_REQUIRED = Problem(422, "image_required", "The request has no image", "Send the file in the form field `image`.")
IMAGE_EMPTY = Problem(422, "image_empty", "The image is empty", "Check that the file was read before it was sent.")
TOO_MANY_IMAGES = Problem(
    422, "too_many_images", "The request has more than one image", "Submit one job for each image."
)
UNKNOWN_FIELD = Problem(
    422, "unknown_field", "The request has an unknown field", "Remove the fields that `errors` names."
)
INVALID_FIELD = Problem(422, "invalid_field", "A field has a wrong value", "Correct the fields that `errors` names.")
IDEMPOTENCY_KEY_REUSED = Problem(
    422,
    "idempotency_key_reused",
    "The idempotency key was used for a different request",
    "Make a new key for each request. Reuse a key only to send the same request again.",
)
UNKNOWN_MODEL = Problem(
    422, "unknown_model", "This service does not run the model", "Omit `model`, or send the name that `detail` gives."
)
UNKNOWN_POLICY = Problem(
    422,
    "unknown_policy",
    "No worker has the policy",
    "Omit `policy`, or ask the operator for the names of the policies.",
)
URL_NOT_ALLOWED = Problem(
    422,
    "url_not_allowed",
    "The service may not call this URL",
    "Use a public https:// URL, or ask the operator to allow this one.",
)
TOO_MANY_OPEN_JOBS = Problem(
    429,
    "too_many_open_jobs",
    "The tenant has too many open jobs",
    "Submit again after `Retry-After` seconds, or cancel jobs that you no longer need. The operator sets the limit.",
)
QUOTA_EXCEEDED = Problem(
    429,
    "quota_exceeded",
    "The tenant has used up its device seconds of this day",
    "Submit again after `Retry-After` seconds, when the next day begins (UTC), or ask the operator for a higher limit.",
)
RATE_LIMITED = Problem(
    429,
    "rate_limited",
    "This key has sent too many requests",
    "Send the request again after `Retry-After` seconds. Each answer's `RateLimit` says how many requests are left.",
)
HEADERS_TOO_LARGE = Problem(
    431,
    "headers_too_large",
    "The request has too many or too long headers",
    "Send at most 64 headers of at most 8 kB each.",
)
INTERNAL = Problem(
    500,
    "internal",
    "The service met an unexpected error",
    "Try again. If the error stays, tell the operator the `request_id`.",
)
DATABASE_UNAVAILABLE = Problem(
    503,
    "database_unavailable",
    "The database does not answer",
    "Try again in a few seconds. Send a submission with the same `Idempotency-Key`, so that it is accepted once.",
)
STORE_UNAVAILABLE = Problem(
    503, "store_unavailable", "The object store does not answer", "Nothing was accepted. Try again in a few seconds."
)
SERVICE_OVERLOADED = Problem(
    503,
    "service_overloaded",
    "The service has too many open jobs",
    "Nothing was accepted. Submit again after `Retry-After` seconds. The operator can add workers.",
)
DISK_FULL = Problem(
    503,
    "no_room",
    "The API has no disk space for the upload",
    "Nothing was accepted. Submit again after `Retry-After` seconds. The operator can free space in the API's "
    "temporary folder.",
)

#: All of them, for the documentation.
PROBLEMS: tuple[Problem, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Problem))


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field or parameter."""

    field: str
    message: str


class ApiError(DistildireError):
    """The request was refused."""

    def __init__(
        self,
        problem: Problem,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail or f"{problem.title}.")
        self.problem = problem
        self.errors = errors
        self.headers = headers or {}


def field_error(field: str, message: str, problem: Problem = INVALID_FIELD) -> ApiError:
    """Return the refusal of a single field."""
    return ApiError(problem, f"{field}: {message}", errors=[FieldError(field, message)])


def document(error: ApiError, request_id: str) -> str:
    """Return the problem document of `error`, as JSON."""
    problem = error.problem
    members: dict[str, Any] = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": error.message,
        "code": problem.code,
        "remedy": problem.remedy,
        "request_id": request_id,
    }
    if error.errors:
        members["errors"] = [vars(item) for item in error.errors]
    return json.dumps(members)


def or_not_found(found: _T | None) -> _T:
    """Return what was found; raise `ApiError` (404) for None."""
    if found is None:
        raise ApiError(NOT_FOUND)
    return found
