"""The documentation page: static files of our own that show `/openapi.json`. Nothing is loaded from elsewhere."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response, current_app

docs_blueprint = APIBlueprint("docs", __name__, enable_openapi=False)

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@docs_blueprint.get("/docs")
def page() -> Response:
    """Show the page."""
    response = current_app.send_static_file("docs.html")
    response.headers["Content-Security-Policy"] = _CONTENT_SECURITY_POLICY
    return response
