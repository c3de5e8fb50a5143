"""Finding out which published file a weights file is, from its digests or from the record beside it.

Fetching, importing or converting a file writes a record, `FILE.record.json`. It holds the SHA-256 of the file on this
disk and the digests of the published file; they differ if the file was converted. So a SHA-256 is enough to check a
file for which the card states only an MD5, and a converted file still counts as the card's.

Digests are computed at every load: SHA-256 takes about one second per gigabyte, MD5 three. A cached digest would miss
that a file changed. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.atomic_files import write_whole
from worker.model.cards.registry import ModelError
from worker.model.cards.schema import WeightsFile

Algorithm = Literal["sha256", "md5"]
OnBytes = Callable[[int], object]
"""Called with the number of bytes that were processed since the last call."""

AGAIN = "Fetch the file again from where the model is published"
CHUNK_BYTES = 1 << 20
RECORD_SUFFIX = ".record.json"


class AlteredError(ModelError):
    """The file is not the one that its card or its record describes."""


class PublishedDigests(BaseModel):
    """The digests of a file as its author published it. The MD5 identifies a file but does not prove its origin."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Record(BaseModel):
    """The SHA-256 of a weights file on this disk, and the digests of the published file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    published: PublishedDigests


def digests(path: Path, algorithms: Iterable[Algorithm], on_bytes: OnBytes = int) -> dict[Algorithm, str]:
    """Read a file once and return its digests in lower-case hexadecimal."""
    hashes = {algorithm: hashlib.new(algorithm, usedforsecurity=False) for algorithm in algorithms}
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            for each in hashes.values():
                each.update(chunk)
            on_bytes(len(chunk))
    return {algorithm: each.hexdigest() for algorithm, each in hashes.items()}


def published_digests(path: Path, on_bytes: OnBytes = int) -> PublishedDigests:
    """Return the digests of a file that is stored as it was published."""
    found = digests(path, ("sha256", "md5"), on_bytes)
    return PublishedDigests(sha256=found["sha256"], md5=found["md5"])


def stated_digests(stated: WeightsFile) -> dict[Algorithm, str]:
    """Return the digests that a card states for a file, by algorithm."""
    named: dict[Algorithm, str | None] = {"sha256": stated.sha256, "md5": stated.md5}
    return {algorithm: value for algorithm, value in named.items() if value}


def identify(path: Path, stated: WeightsFile) -> str:
    """Return the SHA-256 of the published file that the file at `path` is, or was converted from.

    Raises:
        AlteredError: it is not the file that its card or its record describes.
        ModelError: its record cannot be read.
    """
    record = read_record(path)
    expected = stated_digests(stated)
    found = digests(path, {"sha256", *(() if record else expected)})
    if record is None:
        _compare(path, expected, found)
        return found["sha256"]
    if found["sha256"] != record.sha256:
        raise AlteredError(
            f"{path} was damaged or altered since it was installed: its sha256 is {found['sha256']}, but "
            f"{record_path(path)} says {record.sha256}. Remove both, and fetch or import the file again."
        )
    _compare(path, expected, {"sha256": record.published.sha256, "md5": record.published.md5})
    return record.published.sha256


def weights_sha256(adm: str, student: str) -> str:
    """Return the digest that identifies a model's weights: the SHA-256 of two lines, both files' published SHA-256."""
    return hashlib.sha256(f"{adm}\n{student}\n".encode()).hexdigest()


def record_path(path: Path) -> Path:
    """Return the path of a weights file's record."""
    return path.with_name(path.name + RECORD_SUFFIX)


def read_record(path: Path) -> Record | None:
    """Return the record of a weights file; None if it has none.

    Raises:
        ModelError: the record cannot be read.
    """
    place = record_path(path)
    try:
        return Record.model_validate_json(place.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ModelError(f"{place} is not a record of a weights file. Remove it, and import {path} again.") from error


def write_record(path: Path, record: Record) -> None:
    """Write the record of a weights file, whole or not at all."""
    write_whole(record_path(path), (record.model_dump_json(indent=1) + "\n").encode())


def _compare(path: Path, expected: dict[Algorithm, str], found: dict[Algorithm, str]) -> None:
    for algorithm, value in expected.items():
        if found[algorithm] != value:
            raise AlteredError(
                f"{path} is not the file that its card describes: its {algorithm} is {found[algorithm]}, but the card "
                f"says {value}. It is incomplete or was altered. {AGAIN}, or correct the card if it is out of date."
            )
