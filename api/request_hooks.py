"""What every request gets, whatever its route: an id, limits, a log line, metrics and security headers."""

from __future__ import annotations

import time
from collections.abc import Collection
from http import HTTPStatus
from uuid import uuid4

import structlog
from apiflask import APIFlask
from flask import Response, g, request

from api import cors
from api.auth import require_key, require_scope
from api.dependencies import resources
from api.gunicorn_worker import close_after
from api.instruments import observe
from api.problems.table import NOT_FOUND, RATE_LIMITED, ApiError, field_error
from api.security_headers import SAFE_HEADERS

#: The most bytes of a body that is not an upload: it has a few short fields.
_SMALL_BODY = 64 * 1024
UPLOAD_ENDPOINT = "jobs.submit"

_log = structlog.get_logger("api.access")


def register(app: APIFlask, cors_origins: Collection[str]) -> None:
    """Wrap every request of `app`; pages of `cors_origins` may make them from a browser."""
    app.before_request(_begin)
    cors.register(app, cors_origins)
    app.before_request(require_key)
    app.before_request(_count)
    app.before_request(require_scope)
    app.before_request(_refuse_repeated)
    app.after_request(_finish)


def _begin() -> None:
    g.started = time.perf_counter()
    g.request_id = uuid4().hex  # never the client's: a client could forge another's id
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)
    if request.endpoint != UPLOAD_ENDPOINT:
        request.max_content_length = _SMALL_BODY
    wsgi = request.environ
    if wsgi["PATH_INFO"].startswith("//"):  # the router and `request.path` would read it as `/`
        raise ApiError(NOT_FOUND)


def _count() -> None:
    """Count the request against its key's rate limit; raise `ApiError` (429) where it is one too many."""
    if "caller" not in g:
        return
    g.allowance = resources().rate_limiter.count(g.caller.key_id)
    if g.allowance.refused:
        raise ApiError(RATE_LIMITED, f"This key may make {g.allowance.quota:,} requests a minute.")


def _refuse_repeated() -> None:
    """Refuse a query parameter that is given more than once: whichever value counted, it would surprise somebody."""
    repeated = [name for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        raise field_error(repeated[0][:100], "is given more than once")


def _finish(response: Response) -> Response:
    for name, value in SAFE_HEADERS.items():
        response.headers.setdefault(name, value)
    if "allowance" in g:
        response.headers.extend(g.allowance.headers())
    response.headers["X-Request-ID"] = g.request_id
    if request.method == "OPTIONS" and response.status_code == HTTPStatus.OK:  # Flask's own answer, which has no body
        response.status_code = HTTPStatus.NO_CONTENT
        response.headers.remove("Content-Type")
    if response.status_code >= HTTPStatus.BAD_REQUEST and (request.content_length or 0) > _SMALL_BODY:
        close_after(request.environ)  # instead of reading the rest of the body
    seconds = time.perf_counter() - g.started
    # The rule, not the path: it keeps ids, query values and file names out of the log and the metrics.
    route = request.url_rule.rule if request.url_rule else "unknown"
    observe(request.method, route, response.status_code, seconds)
    #: A request was answered. `problem` is the code of its refusal.
    _log.info(
        "request",
        method=request.method,
        route=route,
        status=response.status_code,
        problem=g.get("problem"),
        duration_ms=round(seconds * 1000, 1),
    )
    return response
