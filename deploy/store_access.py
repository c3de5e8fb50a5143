"""Makes the bucket, and keys that open nothing else, with the root keys: so no process of the service needs those."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.credentials.providers import StaticProvider
from minio.error import MinioException
from minio.minioadmin import MinioAdmin

from shared.errors import DistildireError
from shared.settings import StoreSettings

_SECONDS = 10.0
_OBJECT_ACTIONS = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject")


class StoreRefusedError(DistildireError):
    """The object store refused a request, or did not answer."""


@dataclass(frozen=True)
class RootKeys:
    """The keys that open everything in a store."""

    user: str
    password: str = field(repr=False)


def bucket_policy(bucket: str) -> dict[str, Any]:
    """Return what the service's keys may do: look whether the bucket is there, list it, and use its objects."""
    name = f"arn:aws:s3:::{bucket}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [name]},
            {"Effect": "Allow", "Action": [*_OBJECT_ACTIONS], "Resource": [f"{name}/*"]},
        ],
    }


def make_bucket(settings: StoreSettings, root: RootKeys) -> None:
    """Make the bucket unless it is there; raise `StoreRefusedError`."""
    parts = urlsplit(settings.s3_endpoint)
    with _connections(settings) as pool:
        client = Minio(
            parts.netloc,
            access_key=root.user,
            secret_key=root.password,
            secure=parts.scheme == "https",
            region=settings.s3_region,
            http_client=pool,
        )
        if not client.bucket_exists(settings.s3_bucket):
            client.make_bucket(settings.s3_bucket)


def make_user(settings: StoreSettings, root: RootKeys) -> None:
    """Give the settings' keys the rights of `bucket_policy` and no others, on a MinIO server; harmless to repeat.

    Raises:
        StoreRefusedError: the server refused, does not answer, or is no MinIO; or the keys are the root keys.

    """
    access_key = settings.s3_access_key.get_secret_value()
    if access_key == root.user:
        raise StoreRefusedError(
            "DISTILDIRE_S3_ACCESS_KEY is the root user of the store. Give the service keys of its own: choose another "
            "access key and secret key, and this command makes them."
        )
    parts, policy = urlsplit(settings.s3_endpoint), f"{settings.s3_bucket}-bucket"
    with (
        _connections(settings) as pool,
        NamedTemporaryFile("w", suffix=".json") as file,
    ):  # the client takes it as a file
        json.dump(bucket_policy(settings.s3_bucket), file)
        file.flush()
        admin = MinioAdmin(
            endpoint=parts.netloc,
            credentials=StaticProvider(root.user, root.password),
            secure=parts.scheme == "https",
            region=settings.s3_region,
            http_client=pool,
        )
        admin.policy_add(policy, policy_file=file.name)
        admin.user_add(access_key, settings.s3_secret_key.get_secret_value())
        admin.policy_set(policy, user=access_key)


@contextmanager
def _connections(settings: StoreSettings) -> Iterator[urllib3.PoolManager]:
    """Yield a pool of connections that wait for seconds at most, and raise our error from theirs."""
    try:
        with urllib3.PoolManager(timeout=_SECONDS, retries=False) as pool:
            yield pool
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        raise StoreRefusedError(f"The object store at {settings.s3_endpoint} did not do it: {error}") from error
