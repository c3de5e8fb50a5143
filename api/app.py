"""The Flask application: routes, and what surrounds them."""

from __future__ import annotations

from importlib.metadata import version

from apiflask import APIFlask

from api import envelope, openapi, problems
from api.artifacts import artifacts_blueprint
from api.docs import docs_blueprint
from api.health import health_blueprint
from api.jobs import jobs_blueprint
from api.metrics import metrics_blueprint
from api.resources import EXTENSION, make_resources
from api.webhooks import deliveries_blueprint, endpoints_blueprint
from api.workers import workers_blueprint
from shared.settings import Settings

_BLUEPRINTS = (
    jobs_blueprint,
    artifacts_blueprint,
    endpoints_blueprint,
    deliveries_blueprint,
    workers_blueprint,
    health_blueprint,
    metrics_blueprint,
    docs_blueprint,
)


def create_app(settings: Settings) -> APIFlask:
    """Return the WSGI application. Make it after any fork: it holds the process's connections."""
    app = APIFlask(
        "api",
        title="distildire",
        version=version("distildire"),
        docs_path=None,  # its pages load from a CDN
        static_url_path="/docs/static",
        json_errors=False,  # api/problems.py answers
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]  # documents read in the order in which they are written
    app.url_map.merge_slashes = False  # an address is right or unknown, never redirected
    app.extensions[EXTENSION] = make_resources(settings)
    problems.register(app)
    envelope.register(app)
    openapi.register(app)
    for blueprint in _BLUEPRINTS:
        app.register_blueprint(blueprint)
    return app
