"""The Flask application: its routes, and what every request passes through."""

from __future__ import annotations

from importlib.metadata import version

from apiflask import APIFlask

from api import request_hooks
from api.dependencies import EXTENSION, make_resources
from api.docs import openapi
from api.docs.page import docs_blueprint
from api.operations.health import health_blueprint
from api.operations.metrics import metrics_blueprint
from api.problems import handlers
from api.v1.artifacts import artifacts_blueprint
from api.v1.jobs import jobs_blueprint
from api.v1.keys import keys_blueprint
from api.v1.usage import usage_blueprint
from api.v1.webhooks import deliveries_blueprint, endpoints_blueprint
from api.v1.workers import workers_blueprint
from shared.settings import Settings

_BLUEPRINTS = (
    jobs_blueprint,
    artifacts_blueprint,
    endpoints_blueprint,
    deliveries_blueprint,
    keys_blueprint,
    usage_blueprint,
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
        static_folder="docs/static",
        static_url_path="/docs/static",
        json_errors=False,  # api/problems/handlers.py answers
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]  # members keep the order in which the code writes them
    app.url_map.merge_slashes = False  # an address is right or unknown, never redirected
    app.extensions[EXTENSION] = make_resources(settings)
    handlers.register(app)
    request_hooks.register(app, settings.cors_origins)
    openapi.register(app)
    for blueprint in _BLUEPRINTS:
        app.register_blueprint(blueprint)
    return app
