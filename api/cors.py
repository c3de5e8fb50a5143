"""Which pages of other origins may call the API from a browser: CORS, as the Fetch Standard has it (section 3.3).

Keys are sent in `Authorization` by the page's own code, so no cookie is ever allowed. A browser asks first, without the
key, whether it may send such a request (the preflight). It is answered before anybody is authenticated.
"""

from __future__ import annotations

from collections.abc import Collection

from apiflask import APIFlask
from flask import Response, request

from api.rate_limits import RATE_HEADERS

_METHODS = "GET, HEAD, POST, PATCH, DELETE"
_REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key, If-None-Match"
_ANSWER_HEADERS = ", ".join(("ETag", "Location", "Retry-After", "X-Request-ID", *RATE_HEADERS))
#: Seconds for which a browser need not ask again.
_MAX_AGE = "600"


def register(app: APIFlask, origins: Collection[str]) -> None:
    """Let pages of these origins call the routes below /v1. Register it before the hook that asks for a key."""
    if not origins:
        return

    def answer_preflight() -> Response | None:
        if not _is_preflight() or request.headers["Origin"] not in origins:
            return None
        allowed = {
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _REQUEST_HEADERS,
            "Access-Control-Max-Age": _MAX_AGE,
        }
        return Response(status=204, headers=allowed)

    def allow(response: Response) -> Response:
        if not request.path.startswith("/v1/"):
            return response
        response.vary.add("Origin")  # also for those that are refused: a cache must not answer one with the other's
        if request.headers.get("Origin") in origins:
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = _ANSWER_HEADERS
        return response

    app.before_request(answer_preflight)
    app.after_request(allow)


def _is_preflight() -> bool:
    return (
        request.method == "OPTIONS"
        and request.path.startswith("/v1/")
        and {"Origin", "Access-Control-Request-Method"} <= {name for name, _ in request.headers}
    )
