"""The application that gunicorn serves: `gunicorn --config python:api.gunicorn_conf api.wsgi:app`."""

from __future__ import annotations

from api.app import create_app
from shared.logs import configure_logging
from shared.settings import load_settings

_settings = load_settings()
configure_logging(_settings.log_level)
app = create_app(_settings)
