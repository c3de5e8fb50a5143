"""The keys of the service open its bucket and nothing else, on a server with MinIO's own users and policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from minio import Minio
from minio.error import S3Error
from pydantic import SecretStr

from deploy.cli import main
from deploy.local.services import ServiceUrls
from shared.errors import ObjectMissingError, StoreUnavailableError
from shared.settings import Settings
from shared.storage.object_store import ObjectStore, job_prefix, source_key
from tests.support.juicefs import juicefs_gateway
from tests.support.service_settings import settings_for

#: As long as those that deploy/docker/make-env.sh makes up.
ACCESS_KEY, SECRET_KEY, NEW_SECRET_KEY = "a" * 20, "b" * 48, "c" * 48
Store = Callable[..., Result]


@pytest.fixture(scope="module")
def root(services: ServiceUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings with a server's root keys."""
    with juicefs_gateway(tmp_path_factory.mktemp("juicefs"), settings_for(services)) as settings:
        yield settings


@pytest.fixture
def bucket() -> str:
    return f"bucket-{uuid4().hex[:12]}"


@pytest.fixture
def ours(root: Settings, bucket: str) -> Settings:
    """Settings of the service."""
    changes = {"s3_access_key": SecretStr(ACCESS_KEY), "s3_secret_key": SecretStr(SECRET_KEY), "s3_bucket": bucket}
    return root.model_copy(update=changes)


@pytest.fixture
def store(root: Settings, ours: Settings) -> Store:
    """`distildire store` with nothing but the store in its environment."""

    def call(subcommand: str, **changes: str) -> Result:
        environment = {
            "S3_ROOT_USER": root.s3_access_key.get_secret_value(),
            "S3_ROOT_PASSWORD": root.s3_secret_key.get_secret_value(),
            "DISTILDIRE_S3_ENDPOINT": root.s3_endpoint,
            "DISTILDIRE_S3_BUCKET": ours.s3_bucket,
            "DISTILDIRE_S3_ACCESS_KEY": ACCESS_KEY,
            "DISTILDIRE_S3_SECRET_KEY": SECRET_KEY,
        }
        return CliRunner().invoke(main, ["store", subcommand], env=environment | changes)

    return call


def client(settings: Settings) -> Minio:
    return Minio(
        urlsplit(settings.s3_endpoint).netloc,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        secure=False,
        region="us-east-1",
    )


def test_the_keys_do_all_that_the_service_does(store: Store, ours: Settings) -> None:
    for subcommand in ("bucket", "user", "bucket", "user"):
        done = store(subcommand)
        assert done.exit_code == 0, done.output
    kept, tenant, job = ObjectStore(ours), uuid4(), uuid4()
    kept.ping()
    key = source_key(tenant, job)
    kept.put(key, BytesIO(b"image"), 5, "image/png")
    assert kept.get(key) == b"image"
    assert kept.keys(job_prefix(tenant, job)) == [key]
    assert [*kept.page("")[0]] == [key]
    assert kept.delete_all([key]) == []
    kept.delete(key)
    with pytest.raises(ObjectMissingError):
        kept.get(key)


def test_the_keys_open_nothing_else(store: Store, root: Settings, ours: Settings) -> None:
    for subcommand in ("bucket", "user"):
        assert store(subcommand).exit_code == 0
    others, mine, name = client(root), client(ours), f"other-{uuid4().hex[:12]}"
    others.make_bucket(name)
    others.put_object(name, "key", BytesIO(b"x"), 1)
    for tried in (
        lambda: mine.get_object(name, "key"),
        lambda: mine.put_object(name, "another", BytesIO(b"x"), 1),
        lambda: mine.remove_object(name, "key"),
        lambda: [*mine.list_objects(name)],
        lambda: mine.make_bucket(f"{name}-2"),
        lambda: mine.remove_bucket(ours.s3_bucket),
        lambda: mine.set_bucket_policy(ours.s3_bucket, "{}"),
    ):
        with pytest.raises(S3Error) as refused:
            tried()
        assert refused.value.code == "AccessDenied"


def test_a_new_secret_takes_the_place_of_the_old_one(store: Store, ours: Settings) -> None:
    for subcommand in ("bucket", "user"):
        assert store(subcommand).exit_code == 0
    assert store("user", DISTILDIRE_S3_SECRET_KEY=NEW_SECRET_KEY).exit_code == 0
    ObjectStore(ours.model_copy(update={"s3_secret_key": SecretStr(NEW_SECRET_KEY)})).ping()
    with pytest.raises(StoreUnavailableError):
        ObjectStore(ours).get("key")


def test_what_is_refused_says_why_and_repeats_no_secret(store: Store, root: Settings) -> None:
    as_root = store("user", DISTILDIRE_S3_ACCESS_KEY=root.s3_access_key.get_secret_value())
    without = store("bucket", S3_ROOT_PASSWORD="")
    wrong = store("bucket", S3_ROOT_PASSWORD="a wrong password")
    away = store("bucket", DISTILDIRE_S3_ENDPOINT="http://127.0.0.1:1")
    assert [done.exit_code for done in (as_root, without, wrong, away)] == [1] * 4
    assert "keys of its own" in as_root.output
    assert "Set S3_ROOT_USER and S3_ROOT_PASSWORD" in without.output
    assert "did not do it" in wrong.output
    assert "http://127.0.0.1:1" in away.output
    for done in (as_root, without, wrong, away):
        assert SECRET_KEY not in done.output
        assert "a wrong password" not in done.output
