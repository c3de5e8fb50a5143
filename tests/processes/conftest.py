"""Real processes on real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from deploy.local.services import LocalServices, ServiceUrls
from tests.processes.worker_processes import Workplace, open_workplace
from tests.support.service_settings import settings_for


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model of random weights."""
    from tests.support.tiny_model import write_model  # imports torch

    return write_model(tmp_path_factory.mktemp("models"))


OpenWorkplace = Callable[..., Workplace]


@pytest.fixture
def open_place(services: ServiceUrls, empty_database: str, models_dir: Path, tmp_path: Path) -> Iterator[OpenWorkplace]:
    """Return a function that opens the test's workplace, with settings changed as it asks."""
    opened: list[Workplace] = []

    def open_it(**changes: object) -> Workplace:
        quick = {"lease_seconds": 3, "poll_seconds": 0.5, "max_batch": 4, "models_dir": models_dir, "device": "cpu"}
        fields = quick | {"model": "TEST-MODEL", "database_url": SecretStr(empty_database)} | changes
        place = open_workplace(settings_for(services, **fields), tmp_path)
        opened.append(place)
        return place

    yield open_it
    for place in opened:
        place.close()


@pytest.fixture
def place(open_place: OpenWorkplace) -> Workplace:
    """The test's workplace: servers, an empty database, an empty queue."""
    workplace = open_place()
    workplace.redis().flushall()
    return workplace


@pytest.fixture
def own_servers(tmp_path: Path) -> Iterator[LocalServices]:
    """Servers of this test alone, which it may stop or freeze."""
    with LocalServices(tmp_path / "services") as local:
        local.start()
        yield local
