"""The API while a server that it needs is away: refused with 503 in seconds, or accepted all the same."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url, text

from api.app import create_app
from migrations.upgrade import downgrade, upgrade
from shared.errors import ObjectMissingError
from shared.settings import Settings
from shared.storage.object_store import source_key
from tests.support.api_world import ApiWorld, Tenant, png

NOBODY = "127.0.0.1:1"
#: Seconds to a definite answer: three, and some for a machine that is busy.
DEFINITE = 4.0


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never says a word, like one that is frozen."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(params=["gone", "frozen"])
def redis_away(request: pytest.FixtureRequest, silent: str) -> str:
    return NOBODY if request.param == "gone" else silent


def test_jobs_are_accepted_as_quickly_while_redis_is_away(api_with: Callable[..., ApiWorld], redis_away: str) -> None:
    world = api_with(redis_url=SecretStr(f"redis://{redis_away}/0"))
    world.one.submit()
    started = time.perf_counter()
    for _ in range(10):
        world.one.submit()
    assert (time.perf_counter() - started) / 10 < 1  # a publish to a frozen Redis takes 2 s or more
    assert len(world.one.get("/v1/jobs").json["items"]) == 11
    ready = world.anonymous.get("/readyz")
    assert ready.status_code == 200
    assert ready.json["checks"]["redis"] == {"state": "down", "required": False}


def test_probes_that_a_frozen_redis_holds_up_do_not_take_the_service_out(
    api_with: Callable[..., ApiWorld], silent: str
) -> None:
    world = api_with(redis_url=SecretStr(f"redis://{silent}/0"))
    with ThreadPoolExecutor(12) as balancers:
        answers = list(balancers.map(lambda _: world.anonymous.get("/readyz"), range(24)))
    assert [answer.status_code for answer in answers] == [200] * 24


def test_the_service_is_not_ready_before_its_database_is_migrated(
    api_with: Callable[..., ApiWorld], empty_database: str
) -> None:
    world = api_with(database_url=SecretStr(empty_database))
    downgrade(empty_database, "base")
    refused = world.anonymous.get("/readyz")
    assert refused.status_code == 503
    assert refused.json["checks"]["database"]["state"] == "down"
    assert world.anonymous.get("/healthz").status_code == 200
    upgrade(empty_database)
    assert world.anonymous.get("/readyz").status_code == 200


def test_a_flood_of_wake_ups_that_nobody_takes_is_dropped(api_with: Callable[..., ApiWorld], silent: str) -> None:
    world = api_with(redis_url=SecretStr(f"redis://{silent}/0"))
    started = time.perf_counter()
    for _ in range(2_000):
        world.around.wakeups.put(uuid4())
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("how", ["gone", "frozen"])
@pytest.mark.parametrize("padding", [0, 15_000_000], ids=["small", "large"])
def test_without_the_store_nothing_is_accepted_and_nothing_hangs(
    api_with: Callable[..., ApiWorld], silent: str, how: str, padding: int
) -> None:
    world = api_with(s3_endpoint=f"http://{NOBODY if how == 'gone' else silent}")
    started = time.perf_counter()
    response = world.one.post_form(png() + bytes(padding))
    assert time.perf_counter() - started < DEFINITE
    assert (response.status_code, response.json["code"]) == (503, "store_unavailable")
    assert int(response.headers["Retry-After"]) >= 1
    assert world.one.get("/v1/jobs").json["items"] == []
    ready = world.anonymous.get("/readyz")
    assert ready.status_code == 503
    assert ready.json["checks"]["object_store"] == {"state": "down", "required": True}
    assert ready.json["checks"]["database"]["state"] == "up"


@pytest.mark.parametrize("how", ["gone", "frozen"])
def test_without_the_database_every_route_says_so_in_seconds(api_settings: Settings, silent: str, how: str) -> None:
    address = NOBODY if how == "gone" else silent
    url = SecretStr(f"postgresql://app:x@{address}/none")
    somebody = Tenant(create_app(api_settings.model_copy(update={"database_url": url})), f"dd_{'x' * 43}")
    started = time.perf_counter()
    response = somebody.get("/v1/jobs")
    assert time.perf_counter() - started < 8
    assert (response.status_code, response.json["code"]) == (503, "database_unavailable")
    assert response.headers["Retry-After"]


class Relay:
    """A way to a server that can be frozen: it stays open and lets nothing through."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = threading.Event()
        self._open.set()
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        self._open.clear()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(self._target)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(65536):
                self._open.wait()
                target.sendall(data)


def test_a_database_that_freezes_under_open_connections_is_given_up(
    api_settings: Settings, api_with: Callable[..., ApiWorld]
) -> None:
    url = make_url(api_settings.database_url.get_secret_value())
    relay = Relay(str(url.host), int(url.port or 5432))
    relayed = url.set(host="127.0.0.1", port=relay.port).render_as_string(hide_password=False)
    world = api_with(database_url=SecretStr(relayed))
    assert world.one.get("/v1/jobs").status_code == 200
    relay.freeze()
    started = time.perf_counter()
    response = world.one.get("/v1/jobs")
    assert time.perf_counter() - started < 12
    assert (response.status_code, response.json["code"]) == (503, "database_unavailable")
    relay.close()


def test_while_the_jobs_are_locked_the_answer_is_definite_and_nothing_is_stored(
    api: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(type(api.around.store), "put")
    with api.around.database.begin() as session:
        session.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        started = time.perf_counter()
        response = api.one.post_form(png())
        assert time.perf_counter() - started < DEFINITE
    assert (response.status_code, response.json["code"]) == (503, "database_unavailable")
    assert int(response.headers["Retry-After"]) >= 1
    monkeypatch.undo()
    api.one.submit()


def test_an_image_whose_job_cannot_be_committed_is_removed(api: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = uuid4()
    monkeypatch.setattr("api.v1.jobs.uuid4", lambda: job_id)
    with api.around.database.begin() as session:
        session.execute(text("ALTER TABLE jobs ADD CONSTRAINT no_jobs CHECK (false) NOT VALID"))
    try:
        response = api.one.post_form(png())
        assert (response.status_code, response.json["code"]) == (500, "internal")
    finally:
        with api.around.database.begin() as session:
            session.execute(text("ALTER TABLE jobs DROP CONSTRAINT no_jobs"))
            tenant_id = session.scalar(text("SELECT id FROM tenants WHERE name = 'one'"))
    key = source_key(UUID(str(tenant_id)), job_id)
    with pytest.raises(ObjectMissingError):
        api.around.store.get(key)
    assert api.one.submit() == str(job_id)
    assert api.around.store.get(key) == png()
