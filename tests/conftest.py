"""What tests of every kind may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.services import LocalServices, ServiceUrls
from tests.support.databases import fresh_database, migrated_template
from tests.support.receivers import Receiver, running_receiver


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceUrls]:
    """A real PostgreSQL, Valkey and S3 server for the whole session; started for the first test that asks."""
    data_dir: Path = tmp_path_factory.mktemp("services")
    with LocalServices(data_dir) as local:
        yield local.start()


@pytest.fixture(scope="session")
def migrated_database(services: ServiceUrls) -> str:
    """The name of a database with every migration applied: a template to copy, never to connect to."""
    return migrated_template(services.database_url)


@pytest.fixture
def empty_database(services: ServiceUrls, migrated_database: str) -> str:
    """The URL of a database of the test's own, migrated and without rows."""
    return fresh_database(services.database_url, migrated_database)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server that takes webhooks, and remembers them."""
    with running_receiver() as running:
        yield running
