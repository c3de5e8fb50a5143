"""Installing weights at the path that their card names, after a check of their digests, completely or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.model.cards.registry import InstalledCard, ModelError
from worker.model.cards.schema import WeightsFile
from worker.model.weights.digests import (
    CHUNK_BYTES,
    OnBytes,
    PublishedDigests,
    Record,
    published_digests,
    stated_digests,
    write_record,
)


@dataclass(frozen=True)
class Recognised:
    """An operator's file, the entry of the card that it matches, its digests, and the path where it is installed."""

    source: Path
    stated: WeightsFile
    digests: PublishedDigests
    target: Path


def recognise(
    paths: Sequence[Path], installed: InstalledCard, folder: Path, on_bytes: OnBytes = int
) -> list[Recognised]:
    """Match each file to an entry of the card: by digest, or by name if the card states no digest.

    Nothing is written. `folder` is the operator's models folder.

    Raises:
        ModelError: a file matches no entry, or another file exists where it would be installed.
    """
    return [_recognise(path, installed, folder, on_bytes) for path in paths]


def place(file: Recognised, on_bytes: OnBytes = int, *, link: bool = False) -> None:
    """Copy or hard-link a recognised file to its target, and write the record of its digests.

    Raises:
        ModelError: there is not enough disk space, the file changed meanwhile, or it cannot be linked.
    """
    source, target = file.source, file.target
    if target.exists() and source.samefile(target):
        write_record(target, Record(sha256=file.digests.sha256, published=file.digests))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.importing")
    try:
        if link:
            _link(source, partial)
        else:
            require_space(target.parent, source.stat().st_size)
            _copy(source, partial, file.digests.sha256, on_bytes)
        appear(partial, target, file.digests)
    finally:
        partial.unlink(missing_ok=True)


def appear(partial: Path, target: Path, published: PublishedDigests) -> None:
    """Flush a complete file to disk, write its record, then give the file its final name."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    write_record(target, Record(sha256=published.sha256, published=published))
    partial.replace(target)


def require_space(folder: Path, size: int) -> None:
    """Raise `ModelError` if fewer than `size` bytes are free in `folder`."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ModelError(
            f"{size / 1e9:.2f} GB are needed in {folder}, but {free / 1e9:.2f} GB are free. Free disk space, or choose "
            "another folder with --models-dir."
        )


def _recognise(path: Path, installed: InstalledCard, folder: Path, on_bytes: OnBytes) -> Recognised:
    found = published_digests(path, on_bytes)
    card = installed.card
    for stated in (card.adm, card.student):
        expected = stated_digests(stated)
        same = expected.items() <= found.model_dump().items()
        if same if expected else path.name == Path(stated.weights).name:
            target = folder / stated.weights
            if target.exists() and not path.samefile(target) and published_digests(target) != found:
                raise ModelError(f"{target} exists and is another file. If you do not need it, remove it first.")
            return Recognised(path, stated, found, target)
    wanted = "; ".join(_describe(stated) for stated in (card.adm, card.student))
    raise ModelError(
        f"{path} is none of the files of {card.name}: its sha256 is {found.sha256}, its md5 {found.md5}. The card "
        f"names {wanted}. Nothing was imported. Get the right file, or correct the card if it is out of date."
    )


def _describe(stated: WeightsFile) -> str:
    expected = [f"{algorithm} {value}" for algorithm, value in stated_digests(stated).items()]
    return f"{stated.weights} ({', '.join(expected) or 'known by its name'})"


def _link(source: Path, partial: Path) -> None:
    try:
        os.link(source.resolve(), partial)
    except OSError as error:
        raise ModelError(
            f"{source} cannot be linked into {partial.parent}: {error.strerror}. Run the command without --link."
        ) from error


def _copy(source: Path, partial: Path, sha256: str, on_bytes: OnBytes) -> None:
    copied = hashlib.sha256()
    with source.open("rb") as reader, partial.open("xb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            copied.update(chunk)
            try:
                writer.write(chunk)
            except OSError as error:
                raise ModelError(
                    f"{partial.parent} cannot be written to: {error.strerror}. Free disk space, then import again."
                ) from error
            on_bytes(len(chunk))
    if copied.hexdigest() != sha256:
        raise ModelError(f"{source} changed while it was copied. Nothing was imported: import it again.")
