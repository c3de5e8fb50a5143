"""The API under test: the real application over real PostgreSQL, Valkey and S3, and two tenants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from apiflask import APIFlask
from pydantic import SecretStr

from api.app import create_app
from api.dependencies import EXTENSION
from deploy.local.services import ServiceUrls
from shared.database.engine import Database
from shared.database.row_level_security import API_ROLE
from shared.settings import Settings
from tests.support.api_world import ApiWorld
from tests.support.databases import add_tenant, as_role, fresh_database
from tests.support.service_settings import settings_for


@pytest.fixture(scope="session")
def api_database(services: ServiceUrls, migrated_database: str) -> Iterator[Database]:
    """A database that all tests of the API share, as its owner: one for each would take longer than most tests."""
    with Database(fresh_database(services.database_url, migrated_database)) as database:
        yield database


@pytest.fixture(scope="session")
def owner_settings(services: ServiceUrls, api_database: Database) -> Settings:
    """Settings of that database, as its owner."""
    url = api_database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return settings_for(services, database_url=url)


@pytest.fixture(scope="session")
def api_settings(owner_settings: Settings) -> Settings:
    """Settings of that database; the API logs in as its own role, as it is deployed."""
    url = as_role(owner_settings.database_url.get_secret_value(), API_ROLE)
    return owner_settings.model_copy(update={"database_url": SecretStr(url)})


@pytest.fixture(scope="session")
def api_app(api_settings: Settings) -> Iterator[APIFlask]:
    app = create_app(api_settings)
    yield app
    app.extensions[EXTENSION].database.close()


@pytest.fixture(scope="session")
def owner_app(owner_settings: Settings) -> Iterator[APIFlask]:
    """The application as the tables' owner, whom row-level security does not stop: its own filters must hold."""
    app = create_app(owner_settings)
    yield app
    app.extensions[EXTENSION].database.close()


@pytest.fixture
def api(api_app: APIFlask, api_database: Database) -> ApiWorld:
    """The application with an empty database and two new tenants."""
    return ApiWorld(api_app, api_database)


@pytest.fixture
def api_with(api_settings: Settings, api_database: Database) -> Iterator[Callable[..., ApiWorld]]:
    """Make the same with other settings."""
    apps = []

    def make(**changes: object) -> ApiWorld:
        apps.append(create_app(api_settings.model_copy(update=changes)))
        return ApiWorld(apps[-1], api_database)

    yield make
    for app in apps:
        app.extensions[EXTENSION].database.close()


@pytest.fixture
def database(empty_database: str) -> Iterator[Database]:
    """A migrated database without rows, and connections for as many threads as a test starts."""
    with Database(empty_database, pool_size=40) as database:
        yield database


@pytest.fixture
def tenant(database: Database) -> UUID:
    """The id of a tenant without limits of its own."""
    return add_tenant(database, "a")
