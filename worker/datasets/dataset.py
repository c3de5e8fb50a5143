"""A data set of one's own: which images there are, which class, generator, group and split each belongs to.

docs/training.md has the layouts that are understood. All that can be wrong with labels, splits and groups is found at
once, before anything is computed; files that are missing or cannot be decoded are listed and left out.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared.errors import DistildireError, JobError
from worker.datasets.formats import LABELS, Row, Skipped, Split
from worker.datasets.sources import read_listing
from worker.imaging.decoding import ImageLimits, decode


class DatasetError(DistildireError):
    """The data set is wrong. `mistakes` lists everything that must be corrected, in the source's order."""

    def __init__(self, source: Path, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        lines = "".join(f"\n- {mistake}" for mistake in mistakes)
        super().__init__(f"{source} cannot be used as a data set until this is corrected:{lines}")


@dataclass(frozen=True)
class LabelledImage:
    """One image and what is known of it.

    `generator`: what made a fake; empty for a real photograph. `group`: the photograph that it is, or was made from;
    its own path where that is not known. All images of a group are in one split.
    """

    path: Path
    fake: bool
    generator: str
    group: str
    split: Split


@dataclass(frozen=True)
class Dataset:
    """The usable images in the source's order, and the files that were left out."""

    images: tuple[LabelledImage, ...]
    skipped: tuple[Skipped, ...]

    def of(self, split: Split | Literal["all"]) -> tuple[LabelledImage, ...]:
        """Return the images of one split, or all."""
        return tuple(image for image in self.images if split in {"all", image.split})


def read_dataset(source: Path) -> Dataset:
    """Read which images there are, and decode each once to see that it can be.

    What is wrong with the list itself is told before any image is opened: to decode a million takes its time.

    Args:
        source: a folder of one of the four conventions (`worker/datasets/conventions.py`), or a CSV file with the
            columns `path` (relative to the file's folder), `label` (`real` or `fake`), and, where known, `generator`,
            `group` and `split` (`train`, `validation` or `test`). A group whose split is not stated gets one by its
            digest.

    Raises:
        DatasetError: a label, split or group is wrong, a group is in two splits, an image is listed twice, a class has
            no images, the same file has two labels or is in two splits or groups, a folder or name cannot be read,
            something has no place in the layout, or the layout is none of these. All mistakes are named.
    """
    mistakes: list[str] = []
    listing = read_listing(source, mistakes)
    images = _with_splits(listing.rows, mistakes)
    mistakes += _repeated(listing.rows)
    if listing.rows or not mistakes:  # else it could not be read at all
        mistakes += _missing_classes(images, ())
    _require(source, mistakes)
    usable, skipped = _sift(images, mistakes)
    mistakes += _missing_classes(usable, skipped)
    _require(source, mistakes)
    return Dataset(usable, (*listing.skipped, *skipped))


def _require(source: Path, mistakes: Sequence[str]) -> None:
    if mistakes:
        raise DatasetError(source, mistakes)


def split_of(group: str) -> Split:
    """Assign a group to a split by its digest: 14, 3 and 3 in 20, whatever else the data set holds."""
    bucket = int(hashlib.sha256(group.encode()).hexdigest(), 16) % 20
    if bucket < 14:
        return "train"
    return "validation" if bucket < 17 else "test"


def _with_splits(rows: Sequence[Row], mistakes: list[str]) -> tuple[LabelledImage, ...]:
    """Give every image the split that its group has, by statement or by digest."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    splits: dict[str, Split] = {}
    for group, members in groups.items():
        stated = {row.split: row.where for row in reversed(members) if row.split is not None}
        if len(stated) > 1:
            places = " and ".join(f"{split} ({where})" for split, where in sorted(stated.items()))
            mistakes.append(f"the group {group!r} is in {len(stated)} splits: {places}; put it into one")
        splits[group] = next(iter(stated), split_of(group))
    return tuple(LabelledImage(row.path, row.fake, row.generator, row.group, splits[row.group]) for row in rows)


def _repeated(rows: Iterable[Row]) -> list[str]:
    first: dict[str, Row] = {}
    return [
        f"{row.where} repeats {other.path} of {other.where}{'' if row.fake == other.fake else ' with another label'}: "
        "remove one"
        for row in rows
        if (other := first.setdefault(os.path.normpath(row.path), row)) is not row
    ]


def _missing_classes(images: Sequence[LabelledImage], skipped: Sequence[Skipped]) -> list[str]:
    present = {image.fake for image in images}
    first = "; ".join(f"{one.path}: {one.reason}" for one in skipped[:3])
    why = f"; {len(skipped)} files were left out ({first} …)" if skipped else ""
    return [f"there is no {label} image{why}" for label, fake in LABELS.items() if fake not in present]


def _sift(
    images: Sequence[LabelledImage], mistakes: list[str]
) -> tuple[tuple[LabelledImage, ...], tuple[Skipped, ...]]:
    """Part the images that can be decoded from those that cannot. Decoders run side by side: they release the GIL."""
    # The filters of warnings, which `decode` sets for its time, belong to all threads: what these leave ends with it.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda image: _inspected(image.path), images))
    usable = [(image, one) for image, one in zip(images, found, strict=True) if not isinstance(one, Skipped)]
    mistakes += _contradictions(usable)
    return tuple(image for image, _ in usable), tuple(one for one in found if isinstance(one, Skipped))


def _inspected(path: Path) -> str | Skipped:
    """Return the SHA-256 of a file that can be decoded, or why it cannot."""
    try:
        if path.exists() and not path.is_file():
            return Skipped(path, "is no file")  # a pipe would be waited for without end
        decode(path, ImageLimits())
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except JobError as error:
        return Skipped(path, f"{error.code}: {error.message}")
    except OSError as error:
        return Skipped(path, f"cannot be read: {error.strerror or error}")


def _contradictions(images: Iterable[tuple[LabelledImage, str]]) -> list[str]:
    """Name the files of one content that have two labels, or are in two splits or groups."""
    first: dict[str, LabelledImage] = {}
    mistakes = []
    for image, sha256 in images:
        other = first.setdefault(sha256, image)
        if image.path == other.path:
            continue  # itself, or named by `_repeated`
        if image.fake != other.fake:
            mistakes.append(f"{image.path} is the same file as {other.path}, labelled otherwise: remove one or both")
        elif image.split != other.split:
            splits = f"{image.split}, the other in {other.split}"
            mistakes.append(f"{image.path} is the same file as {other.path} and is in {splits}: remove one")
        elif image.group != other.group:
            remedy = "in another group: remove one, or give both one group"
            mistakes.append(f"{image.path} is the same file as {other.path}, {remedy}")
    return mistakes
