"""Maps errors to problem documents: the only place that does."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from apiflask import APIFlask, HTTPError
from flask import Response, g
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from api.instruments import count_refusal
from api.problems.table import (
    ARTIFACT_NOT_FOUND,
    BODY_TOO_LARGE,
    DATABASE_UNAVAILABLE,
    IDEMPOTENCY_KEY_REUSED,
    INTERNAL,
    INVALID_FIELD,
    MALFORMED_REQUEST,
    MEDIA_TYPE,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    QUOTA_EXCEEDED,
    REQUEST_TIMEOUT,
    RETRY_AFTER,
    SCOPE_MISSING,
    SERVICE_OVERLOADED,
    STORE_UNAVAILABLE,
    TOO_MANY_OPEN_JOBS,
    UNKNOWN_POLICY,
    VALUE_ERROR,
    ApiError,
    FieldError,
    Problem,
    document,
    field_error,
)
from shared.errors import DatabaseUnavailableError, DistildireError, ObjectMissingError, StoreUnavailableError
from shared.jobs.admission import FullError, QuotaError, ServiceFullError, TenantFullError
from shared.jobs.idempotency import KeyReusedError
from shared.jobs.submission import UnknownPolicyError
from shared.tenants.api_keys import ScopeError

_BY_STATUS = {problem.status: problem for problem in (METHOD_NOT_ALLOWED, REQUEST_TIMEOUT, BODY_TOO_LARGE)}
_FULL: dict[type[FullError], Problem] = {TenantFullError: TOO_MANY_OPEN_JOBS, ServiceFullError: SERVICE_OVERLOADED}
_OUTAGES = {DatabaseUnavailableError: DATABASE_UNAVAILABLE, StoreUnavailableError: STORE_UNAVAILABLE}

_log = structlog.get_logger(__name__)


def respond(error: ApiError) -> Response:
    """Answer with the problem document of `error`."""
    g.problem = error.problem.code
    return Response(document(error, g.request_id), error.problem.status, error.headers, mimetype=MEDIA_TYPE)


def register(app: APIFlask) -> None:
    """Answer every error of `app` with a problem document."""
    app.register_error_handler(ApiError, respond)
    app.register_error_handler(HTTPException, _werkzeug)
    app.register_error_handler(HTTPError, _invalid_parameters)
    app.register_error_handler(ObjectMissingError, _object_missing)
    app.register_error_handler(FullError, _full)
    app.register_error_handler(QuotaError, _quota_exceeded)
    app.register_error_handler(KeyReusedError, _key_reused)
    app.register_error_handler(UnknownPolicyError, _unknown_policy)
    app.register_error_handler(ScopeError, _scope_missing)
    app.register_error_handler(RecursionError, _too_deep)
    app.register_error_handler(ParseException, _unreadable)
    for outage in _OUTAGES:
        app.register_error_handler(outage, _outage)
    app.register_error_handler(Exception, _unexpected)


def _werkzeug(error: HTTPException) -> Response:
    """Errors of routing and of reading the request. Their own messages could repeat what the client sent."""
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    if status == HTTPStatus.NOT_FOUND:
        problem = NOT_FOUND
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        problem = INTERNAL
    else:
        problem = _BY_STATUS.get(status, MALFORMED_REQUEST)
    headers = {name: value for name, value in error.get_headers() if name == "Allow"}
    return respond(ApiError(problem, headers=headers))


def _invalid_parameters(error: HTTPError) -> Response:
    """What the models of `api/v1/schemas` refused. The field's name tells whether it is in the query or the body."""
    found = [
        FieldError(field, "; ".join(message.removeprefix(VALUE_ERROR) for message in messages))
        for fields in error.detail.values()
        for field, messages in fields.items()
    ]
    detail = "; ".join(f"{item.field}: {item.message}" for item in found)
    return respond(ApiError(INVALID_FIELD, detail, errors=found))


def _object_missing(_error: ObjectMissingError) -> Response:
    return respond(ApiError(ARTIFACT_NOT_FOUND, "The object store no longer has the file."))


def _full(error: FullError) -> Response:
    problem = _FULL[type(error)]
    count_refusal(problem.code)
    detail = f"{error.most:,} jobs are open, which is the limit."
    return respond(ApiError(problem, detail, headers={"Retry-After": str(error.retry_after)}))


def _quota_exceeded(error: QuotaError) -> Response:
    count_refusal(QUOTA_EXCEEDED.code)
    detail = f"The limit is {error.most:,} device seconds a day."
    return respond(ApiError(QUOTA_EXCEEDED, detail, headers={"Retry-After": str(error.retry_after)}))


def _key_reused(error: KeyReusedError) -> Response:
    return respond(ApiError(IDEMPOTENCY_KEY_REUSED, error.message))


def _unknown_policy(_error: UnknownPolicyError) -> Response:
    return respond(field_error("policy", "no worker has this policy", UNKNOWN_POLICY))


def _scope_missing(error: ScopeError) -> Response:
    return respond(ApiError(SCOPE_MISSING, error.message))


def _too_deep(_error: RecursionError) -> Response:
    return respond(ApiError(MALFORMED_REQUEST, "The JSON is nested too deeply."))


def _unreadable(_error: ParseException) -> Response:
    return respond(ApiError(MALFORMED_REQUEST, "The body does not match its Transfer-Encoding."))


def _outage(error: DistildireError) -> Response:
    #: PostgreSQL or the object store did not answer, so a request was answered 503. `dependency` names the server: look
    #: at it.
    _log.warning("dependency_unavailable", dependency=type(error).__name__, cause=repr(error.__cause__))
    return respond(ApiError(_OUTAGES[type(error)], error.message, headers={"Retry-After": RETRY_AFTER}))


def _unexpected(error: Exception) -> Response:
    #: A request met an error that the API does not expect, and was answered 500 `internal`. Report the traceback: this
    #: is a bug of the service.
    _log.error("unexpected_error", exc_info=error)
    return respond(ApiError(INTERNAL))
