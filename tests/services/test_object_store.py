"""The object store, on a real S3 server."""

from __future__ import annotations

import hashlib
import socket
import time
from io import BytesIO
from urllib.request import urlopen
from uuid import uuid4

import pytest
from pydantic import SecretStr

from deploy.local.services import ServiceUrls
from shared.errors import ObjectMissingError, StoreUnavailableError
from shared.object_store import ObjectStore
from shared.settings import Settings
from tests.service_settings import settings_for


@pytest.fixture
def settings(services: ServiceUrls) -> Settings:
    return settings_for(services)


@pytest.fixture
def store(settings: Settings) -> ObjectStore:
    return ObjectStore(settings)


def test_what_is_put_is_got_until_it_is_deleted(store: ObjectStore) -> None:
    key, data = f"{uuid4()}/source", b"x" * 200_000
    store.put(key, BytesIO(data), len(data), "image/png")
    assert store.get(key) == data
    store.delete(key)
    store.delete(key)
    with pytest.raises(ObjectMissingError):
        store.stream(key)


def test_an_artifact_carries_its_size_and_digest(store: ObjectStore) -> None:
    artifact = store.put_artifact(f"{uuid4()}/1/heatmap.png", b"png")
    assert (artifact.bytes, artifact.sha256) == (3, hashlib.sha256(b"png").hexdigest())
    assert store.get(artifact.key) == b"png"


def test_a_link_opens_without_keys_and_is_signed_for_the_public_host(settings: Settings) -> None:
    key = f"{uuid4()}/1/heatmap.png"
    ObjectStore(settings).put_artifact(key, b"png")
    with urlopen(ObjectStore(settings).link(key), timeout=5) as response:
        assert response.read() == b"png"
    public = settings.model_copy(update={"s3_public_endpoint": "https://pictures.example"})
    link = ObjectStore(public).link(key)
    assert link.startswith("https://pictures.example/")
    assert "X-Amz-Expires=300" in link
    assert settings.s3_secret_key.get_secret_value() not in link


def test_a_store_that_is_silent_is_given_up_on_after_seconds(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # accepts, and never answers
        endpoint = f"http://127.0.0.1:{frozen.getsockname()[1]}"
        store = ObjectStore(settings.model_copy(update={"s3_endpoint": endpoint}))
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
