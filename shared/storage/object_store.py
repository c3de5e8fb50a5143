"""The object store, through `minio`: uploads and pictures by key. Every wait is bounded; only our errors leave."""

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

from shared.domain import PREVIEW, Artifact
from shared.errors import ObjectMissingError, StoreUnavailableError
from shared.settings import AnalysisSettings
from shared.storage.circuit_breaker import CircuitBreaker

_CONNECT_SECONDS, _READ_SECONDS, _RETRIES = 2.0, 5.0, 1
#: How long a request to the API waits for a silent store: its caller must get a definite answer within 3 s.
BRIEF_SECONDS = 2.0
#: The bytes that are sent at once. The timeout applies to each block, not to the whole.
_BLOCK = 256 * 1024
#: The smallest part of a multipart upload that S3 accepts.
_LEAST_PART = 5 * 1024 * 1024
_CHUNK = 64 * 1024
LINK_LIFETIME = timedelta(minutes=5)
_MISSING = {"NoSuchKey", "NoSuchObject"}


def source_key(tenant_id: UUID, job_id: UUID) -> str:
    """Return the key of an upload."""
    return f"{job_prefix(tenant_id, job_id)}source"


def job_prefix(tenant_id: UUID, job_id: UUID) -> str:
    """Return the prefix of all keys of a job."""
    return f"{tenant_id}/{job_id}/"


def artifact_key(tenant_id: UUID, job_id: UUID, attempt: int, name: str) -> str:
    """Return the key of a picture. It contains the attempt, so no attempt overwrites another's picture."""
    return f"{job_prefix(tenant_id, job_id)}{attempt}/{name}.{'jpg' if name == PREVIEW else 'png'}"


class ObjectStore:
    """One bucket."""

    def __init__(self, settings: AnalysisSettings, *, silence: float = _READ_SECONDS) -> None:
        """A store that does not answer for `silence` seconds is unavailable, and stays so until it answers a caller."""
        self._bucket = settings.s3_bucket
        self._client = _client(settings, settings.s3_endpoint, silence)
        self._public = _client(settings, settings.s3_public_endpoint or settings.s3_endpoint, silence)
        self._breaker = CircuitBreaker(silence)

    def put(self, key: str, data: BinaryIO, size: int, media_type: str) -> None:
        """Store `size` bytes of `data` under `key`; raise `StoreUnavailableError` unless that is certain.

        In one request: listings do not show the parts of an interrupted upload, so nobody would ever delete them.
        """
        part = max(size, _LEAST_PART)
        with self._breaker.asking(), _translated(key):
            self._client.put_object(self._bucket, key, data, size, content_type=media_type, part_size=part)

    def put_artifact(self, key: str, picture: bytes) -> Artifact:
        """Store a picture under its `artifact_key` and return its description."""
        media_type = "image/jpeg" if key.endswith(".jpg") else "image/png"
        self.put(key, BytesIO(picture), len(picture), media_type)
        return Artifact(key, len(picture), hashlib.sha256(picture).hexdigest(), media_type)

    def get(self, key: str) -> bytes:
        """Return a whole object; raise `ObjectMissingError` or `StoreUnavailableError`."""
        return b"".join(self.stream(key))

    def stream(self, key: str) -> Iterator[bytes]:
        """Return an object in chunks. The request is made before this returns, so its errors are raised here."""
        with self._breaker.asking(), _translated(key):
            response = self._client.get_object(self._bucket, key)
        return self._chunks(key, response)

    def delete(self, key: str) -> None:
        """Delete an object; a missing one is no error."""
        with self._breaker.asking(), _translated(key):
            self._client.remove_object(self._bucket, key)

    def delete_all(self, keys: Collection[str]) -> list[str]:
        """Delete at most 1,000 objects; a missing one is no error. Return the keys that the store refused to delete."""
        if not keys:
            return []
        with _translated(next(iter(keys))):
            refused = list(self._client.remove_objects(self._bucket, map(DeleteObject, keys)))
        return [str(error.name) for error in refused]

    def keys(self, prefix: str) -> list[str]:
        """Return all keys that begin with `prefix`, without the empty folders that some servers list."""
        with _translated(prefix):
            return [str(found.object_name) for found in self._list(prefix=prefix) if not found.is_dir]

    def page(self, after: str, most: int = 1_000) -> tuple[dict[str, datetime], str | None]:
        """Return at most `most` keys after `after`, in order, each with the time at which it was written.

        Also the last of them, from which to go on; None at the end.
        """
        with _translated(after):
            found = list(islice(self._list(start_after=after), most))
        written = {str(each.object_name): each.last_modified or datetime.now(UTC) for each in found if not each.is_dir}
        return written, str(found[-1].object_name) if len(found) == most else None

    def link(self, key: str) -> str:
        """Return a presigned URL, valid for five minutes, on the host by which browsers reach the store."""
        return self._public.presigned_get_object(self._bucket, key, expires=LINK_LIFETIME)

    def ping(self) -> None:
        """Raise `StoreUnavailableError` unless the store answers and has the bucket."""
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
    """Sends the MD5 of each upload, because not every server checks a body against its signed SHA-256.

    It sends block by block, and the timeout is that of a block: a timeout of the whole would be too long for a silent
    server or too short for a large image.
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
            # Not after a read timeout, which was long enough. A server that refuses or fails briefly is asked again.
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
