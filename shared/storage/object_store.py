"""The object store over `minio`: uploads and pictures by key, every wait bounded, our errors only."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from uuid import UUID

import urllib3
from minio import Minio
from minio.datatypes import Object
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error

from shared.domain import Artifact
from shared.errors import ObjectMissingError, StoreUnavailableError
from shared.settings import AnalysisSettings
from shared.storage.circuit_breaker import CircuitBreaker

_CONNECT_SECONDS, _READ_SECONDS, _RETRIES = 2.0, 5.0, 1
#: How long a request to the API waits for a silent store: its caller is to have a definite answer in three seconds.
BRIEF_SECONDS = 2.0
#: What is sent at once. A server is silent that takes none for some time, however much there is to send.
_BLOCK = 256 * 1024
#: The least that S3 calls a part.
_LEAST_PART = 5 * 1024 * 1024
_CHUNK = 64 * 1024
LINK_LIFETIME = timedelta(minutes=5)
_MISSING = {"NoSuchKey", "NoSuchObject"}


def source_key(tenant_id: UUID, job_id: UUID) -> str:
    """Return where an upload lies."""
    return f"{job_prefix(tenant_id, job_id)}source"


def job_prefix(tenant_id: UUID, job_id: UUID) -> str:
    """Return what all keys of a job begin with."""
    return f"{tenant_id}/{job_id}/"


def artifact_key(tenant_id: UUID, job_id: UUID, attempt: int, name: str) -> str:
    """Return where a picture lies; an attempt never writes over another's."""
    return f"{job_prefix(tenant_id, job_id)}{attempt}/{name}.png"


class ObjectStore:
    """One bucket."""

    def __init__(self, settings: AnalysisSettings, *, silence: float = _READ_SECONDS) -> None:
        """A store that says nothing for `silence` seconds is unavailable: at once for others, until it answers one."""
        self._bucket = settings.s3_bucket
        self._client = _client(settings, settings.s3_endpoint, silence)
        self._public = _client(settings, settings.s3_public_endpoint or settings.s3_endpoint, silence)
        self._breaker = CircuitBreaker(silence)

    def put(self, key: str, data: BinaryIO, size: int, media_type: str) -> None:
        """Store `size` bytes of `data` under `key`; raise `StoreUnavailableError` where that is not certain.

        In one request: the parts of an upload that breaks off are in no listing, so nobody would ever collect them.
        """
        part = max(size, _LEAST_PART)
        with self._breaker.asking(), _translated(key):
            self._client.put_object(self._bucket, key, data, size, content_type=media_type, part_size=part)

    def put_artifact(self, key: str, png: bytes) -> Artifact:
        """Store a picture and return what its result says of it."""
        self.put(key, BytesIO(png), len(png), "image/png")
        return Artifact(key, len(png), hashlib.sha256(png).hexdigest())

    def get(self, key: str) -> bytes:
        """Return a whole object; raise `ObjectMissingError` or `StoreUnavailableError`."""
        return b"".join(self.stream(key))

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield an object in chunks; the first is read before this returns, so that errors come at once."""
        with self._breaker.asking(), _translated(key):
            response = self._client.get_object(self._bucket, key)
        return self._chunks(key, response)

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with self._breaker.asking(), _translated(key):
            self._client.remove_object(self._bucket, key)

    def delete_all(self, keys: Collection[str]) -> list[str]:
        """Remove at most 1,000 objects; those that are not there are no error. Return the keys that the store kept."""
        if not keys:
            return []
        with _translated(next(iter(keys))):
            refused = list(self._client.remove_objects(self._bucket, map(DeleteObject, keys)))
        return [str(error.name) for error in refused]

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of all objects that begin with `prefix`; empty folders, which some servers list, are none."""
        with _translated(prefix):
            return [str(found.object_name) for found in self._list(prefix=prefix) if not found.is_dir]

    def page(self, after: str, most: int = 1_000) -> tuple[dict[str, datetime], str | None]:
        """Return the keys behind `after` in their order, at most 1,000, each with the time at which it was written.

        Also the key behind which the rest begins; None at the end.
        """
        with _translated(after):
            found = list(islice(self._list(start_after=after), most))
        written = {str(each.object_name): each.last_modified or datetime.now(UTC) for each in found if not each.is_dir}
        return written, str(found[-1].object_name) if len(found) == most else None

    def link(self, key: str) -> str:
        """Return a presigned GET of five minutes, signed for the host by which browsers reach the store."""
        return self._public.presigned_get_object(self._bucket, key, expires=LINK_LIFETIME)

    def ping(self) -> None:
        """Ask for the bucket; raise `StoreUnavailableError` where the store or the bucket is not there."""
        with self._breaker.asking(), _translated(self._bucket):
            if not self._client.bucket_exists(self._bucket):
                msg = f"The object store has no bucket {self._bucket!r}. Create it."
                raise StoreUnavailableError(msg)

    def _list(self, *, prefix: str | None = None, start_after: str | None = None) -> Iterator[Object]:
        found: Iterator[Object] = self._client.list_objects(
            self._bucket, prefix=prefix, start_after=start_after, recursive=True
        )
        return found

    def _chunks(self, key: str, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        try:
            with _translated(key):
                yield from response.stream(_CHUNK)
        finally:
            response.close()
            response.release_conn()


class _CheckedPool(urllib3.PoolManager):
    """Sends the MD5 of what it puts: not every server holds a body against the SHA-256 that was signed with it.

    It sends block by block, and a timeout is that of a block: one of the whole would be too long for a silent server
    or too short for a large image.
    """

    def urlopen(self, method: str, url: str, redirect: bool = True, **options: Any) -> urllib3.BaseHTTPResponse:  # type: ignore[override]  # noqa: FBT001, FBT002  # urllib3's signature
        body = options.get("body")
        if method == "PUT" and isinstance(body, bytes) and body:
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            options["headers"] = {**options["headers"], "Content-MD5": base64.b64encode(digest).decode()}
            options["body"] = BytesIO(body)
        return super().urlopen(method, url, redirect, **options)


def _client(settings: AnalysisSettings, endpoint: str, silence: float) -> Minio:
    parts = urlsplit(endpoint)
    return Minio(
        parts.netloc,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        secure=parts.scheme == "https",
        region=settings.s3_region,  # known: otherwise the first signature costs a request, even of the public host
        http_client=_CheckedPool(
            maxsize=64,
            blocksize=_BLOCK,
            timeout=urllib3.Timeout(connect=min(_CONNECT_SECONDS, silence / 2), read=silence),
            # A server that is silent was waited for long enough; one that refuses or hiccups is asked once more.
            retries=urllib3.Retry(
                total=_RETRIES, read=False, backoff_factor=0.1, status_forcelist=[500, 502, 503, 504]
            ),
        ),
    )


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        if error.code in _MISSING:
            msg = f"The store has no object {key!r}."
            raise ObjectMissingError(msg) from error
        raise StoreUnavailableError from error
    except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
        raise StoreUnavailableError from error
