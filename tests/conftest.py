"""What tests of every kind may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.services import LocalServices, ServiceUrls


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceUrls]:
    """A real PostgreSQL, Valkey and S3 server for the whole session; started for the first test that asks."""
    data_dir: Path = tmp_path_factory.mktemp("services")
    with LocalServices(data_dir) as local:
        yield local.start()
