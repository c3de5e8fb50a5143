"""What every request gets, whatever its route: an id, limits, a line in the log, a measurement, safe headers."""

from __future__ import annotations

import time
from uuid import uuid4

import structlog
from apiflask import APIFlask
from flask import Response, g, request

from api.auth import require_key
from api.headers import SAFE_HEADERS
from api.metrics import observe

#: Bodies other than uploads: a few short fields.
_SMALL_BODY = 64 * 1024
UPLOAD_ENDPOINT = "jobs.submit"

_log = structlog.get_logger("api.access")


def register(app: APIFlask) -> None:
    """Wrap every request of `app`."""
    app.before_request(_begin)
    app.before_request(require_key)
    app.after_request(_finish)


def _begin() -> None:
    g.started = time.perf_counter()
    g.request_id = uuid4().hex  # never the client's: it could forge the traces of others
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)
    if request.endpoint != UPLOAD_ENDPOINT:
        request.max_content_length = _SMALL_BODY


def _finish(response: Response) -> Response:
    for name, value in SAFE_HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["X-Request-ID"] = g.request_id
    seconds = time.perf_counter() - g.started
    # The rule, not the path: ids, query values and file names stay out of the log and of the metrics.
    route = request.url_rule.rule if request.url_rule else "unknown"
    observe(request.method, route, response.status_code, seconds)
    _log.info(
        "request",
        method=request.method,
        route=route,
        status=response.status_code,
        problem=g.get("problem"),
        duration_ms=round(seconds * 1000, 1),
    )
    return response
