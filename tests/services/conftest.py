"""The API under test: the real application over real PostgreSQL, Valkey and S3, and two tenants."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from apiflask import APIFlask

from api.app import create_app
from api.resources import EXTENSION
from deploy.local.services import ServiceUrls
from shared.settings import Settings
from tests.api_world import ApiWorld
from tests.databases import fresh_database
from tests.service_settings import settings_for


@pytest.fixture(scope="session")
def api_settings(services: ServiceUrls, migrated_database: str) -> Settings:
    """Settings of a database that all tests of the API share: making one for each would take longer than most tests."""
    return settings_for(services, database_url=fresh_database(services.database_url, migrated_database))


@pytest.fixture(scope="session")
def api_app(api_settings: Settings) -> Iterator[APIFlask]:
    app = create_app(api_settings)
    yield app
    app.extensions[EXTENSION].database.close()


@pytest.fixture
def api(api_app: APIFlask) -> ApiWorld:
    """The application with an empty database and two new tenants."""
    return ApiWorld(api_app)


@pytest.fixture
def api_with(api_settings: Settings) -> Iterator[Callable[..., ApiWorld]]:
    """Make the same with other settings."""
    apps = []

    def make(**changes: object) -> ApiWorld:
        apps.append(create_app(api_settings.model_copy(update=changes)))
        return ApiWorld(apps[-1])

    yield make
    for app in apps:
        app.extensions[EXTENSION].database.close()
