"""The object store's contract, on two real S3 servers of different makers."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from io import BytesIO
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import uuid4

import pytest
from pydantic import SecretStr

from deploy.local.services import ServiceUrls
from shared.errors import ObjectMissingError, StoreUnavailableError
from shared.settings import Settings
from shared.storage.object_store import ObjectStore, artifact_key, source_key
from tests.support.juicefs import juicefs_gateway
from tests.support.service_settings import settings_for


@pytest.fixture(scope="module", params=["nanio", "juicefs"])
def settings(
    request: pytest.FixtureRequest, services: ServiceUrls, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    embedded = settings_for(services)
    if request.param == "nanio":
        yield embedded
    else:
        with juicefs_gateway(tmp_path_factory.mktemp("juicefs"), embedded) as other:
            yield other


@pytest.fixture
def store(settings: Settings) -> ObjectStore:
    return ObjectStore(settings)


@pytest.mark.parametrize(
    "size",
    [0, 1, 200_000, pytest.param(20_000_000, id="the largest upload, in one request")],
)
def test_what_is_put_is_got_until_it_is_deleted(store: ObjectStore, size: int) -> None:
    key, data = source_key(uuid4(), uuid4()), hashlib.shake_128(b"image").digest(size)
    store.put(key, BytesIO(data), size, "image/png")
    assert store.get(key) == data
    store.delete(key)
    store.delete(key)
    with pytest.raises(ObjectMissingError):
        store.stream(key)


def test_a_second_put_replaces_the_first(store: ObjectStore) -> None:
    key = source_key(uuid4(), uuid4())
    for data in (b"first", b"2nd"):
        store.put(key, BytesIO(data), len(data), "image/png")
    assert store.get(key) == b"2nd"


@pytest.mark.parametrize("name", ["with space", "ü", "plus+and&and=", "a..b", "~!*'()", "x" * 200])
def test_a_key_of_any_characters_is_kept_apart_from_others(store: ObjectStore, name: str) -> None:
    tenant = uuid4()
    for key in (f"{tenant}/{name}", f"{tenant}/other"):
        store.put(key, BytesIO(key.encode()), len(key.encode()), "image/png")
    assert store.get(f"{tenant}/{name}") == f"{tenant}/{name}".encode()
    with urlopen(store.link(f"{tenant}/{name}"), timeout=5) as response:
        assert response.read() == f"{tenant}/{name}".encode()


def test_an_artifact_carries_its_size_and_digest(store: ObjectStore) -> None:
    artifact = store.put_artifact(artifact_key(uuid4(), uuid4(), 1, "heatmap"), b"png")
    assert (artifact.bytes, artifact.sha256) == (3, hashlib.sha256(b"png").hexdigest())
    assert store.get(artifact.key) == b"png"


def test_a_link_opens_without_keys_and_is_signed_for_the_public_host(settings: Settings) -> None:
    key = artifact_key(uuid4(), uuid4(), 1, "heatmap")
    ObjectStore(settings).put_artifact(key, b"png")
    with urlopen(ObjectStore(settings).link(key), timeout=5) as response:
        assert response.read() == b"png"
        assert response.headers["Content-Type"] == "image/png"
    public = settings.model_copy(update={"s3_public_endpoint": "https://pictures.example"})
    link = ObjectStore(public).link(key)
    assert link.startswith("https://pictures.example/")
    assert "X-Amz-Expires=300" in link
    assert settings.s3_secret_key.get_secret_value() not in link


def test_a_link_opens_nothing_but_its_object(store: ObjectStore) -> None:
    tenant, job = uuid4(), uuid4()
    for name in ("heatmap", "overlay"):
        store.put_artifact(artifact_key(tenant, job, 1, name), b"png")
    link = store.link(artifact_key(tenant, job, 1, "heatmap"))
    for forged in (link.replace("heatmap", "overlay"), link.replace("Expires=300", "Expires=3000"), link.split("?")[0]):
        with pytest.raises(HTTPError, match="403"):
            urlopen(forged, timeout=5)


def test_a_store_that_is_silent_is_given_up_on_after_seconds(services: ServiceUrls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # accepts, and never answers
        endpoint = f"http://127.0.0.1:{frozen.getsockname()[1]}"
        store = ObjectStore(settings_for(services, s3_endpoint=endpoint))
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            store.put("k", BytesIO(b"x"), 1, "image/png")
        assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    "wrong",
    [
        {"s3_endpoint": "http://127.0.0.1:1"},
        {"s3_secret_key": SecretStr("wrong")},
        {"s3_bucket": "no-such-bucket"},
    ],
)
def test_a_store_that_cannot_be_used_is_told_in_our_words(settings: Settings, wrong: dict[str, object]) -> None:
    store = ObjectStore(settings.model_copy(update=wrong))
    with pytest.raises(StoreUnavailableError):
        store.ping()
    with pytest.raises(StoreUnavailableError):
        store.put("k", BytesIO(b""), 0, "image/png")
