"""A data set of one's own: which images there are, which class, generator, group and split each belongs to.

docs/training.md describes the layouts. All mistakes in labels, splits and groups are found at once, before anything is
computed; files that are missing or cannot be decoded are listed and skipped.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared.errors import DistildireError
from worker.datasets.formats import LABELS, ListedImage, Skipped, Split
from worker.datasets.labelled_image import FileMemory, LabelledImage, checked_image
from worker.datasets.sources import read_listing


class DatasetError(DistildireError):
    """The data set is wrong. `mistakes` lists everything that must be corrected, in the source's order."""

    def __init__(self, source: Path, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        lines = "".join(f"\n- {mistake}" for mistake in mistakes)
        super().__init__(f"{source} cannot be used as a data set until this is corrected:{lines}")


@dataclass(frozen=True)
class Dataset:
    """The usable images in the source's order, and the files that were skipped."""

    images: tuple[LabelledImage, ...]
    skipped: tuple[Skipped, ...]

    def of(self, split: Split | Literal["all"]) -> tuple[LabelledImage, ...]:
        """Return the images of one split, or all."""
        return tuple(image for image in self.images if split in {"all", image.split})


def read_dataset(source: Path, hold: Split | Literal["all"] | None = None) -> Dataset:
    """Read which images there are, and open each file once: decode it to see that it can be, and compute its digest.

    Mistakes in the list itself are reported before any image is opened, because decoding a million images takes hours.

    Args:
        source: a folder of one of the four conventions (`worker/datasets/conventions.py`), or a CSV file with the
            columns `path` (relative to the file's folder), `label` (`real` or `fake`), and, where known, `generator`,
            `group` and `split` (`train`, `validation` or `test`). A group whose split is not stated gets one by its
            digest.
        hold: the split whose files stay in memory, up to 1 GiB, because the caller needs their pixels next.

    Raises:
        DatasetError: a label, split or group is wrong, a group is in two splits, an image is listed twice, a class has
            no images, the same file has two labels or is in two splits or groups, a folder or name cannot be read,
            something has no place in the layout, or the layout is none of these. All mistakes are named.
    """
    mistakes: list[str] = []
    listing = read_listing(source, mistakes)
    splits = _splits(listing.images, mistakes)
    mistakes += _repeated(listing.images)
    if listing.images or not mistakes:  # else it could not be read at all
        mistakes += _missing_classes(listing.images, ())
    _require(source, mistakes)
    usable, skipped = _checked(listing.images, splits, hold)
    mistakes += _contradictions(usable)
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


def _splits(listed: Iterable[ListedImage], mistakes: list[str]) -> dict[str, Split]:
    """Return the split of each group, by statement or by digest."""
    groups: dict[str, list[ListedImage]] = defaultdict(list)
    for image in listed:
        groups[image.group].append(image)
    splits: dict[str, Split] = {}
    for group, members in groups.items():
        stated = {image.split: image.where for image in reversed(members) if image.split is not None}
        if len(stated) > 1:
            places = " and ".join(f"{split} ({where})" for split, where in sorted(stated.items()))
            mistakes.append(f"the group {group!r} is in {len(stated)} splits: {places}; put it into one")
        splits[group] = next(iter(stated), split_of(group))
    return splits


def _repeated(listed: Iterable[ListedImage]) -> list[str]:
    first: dict[str, ListedImage] = {}
    return [
        f"{image.where} repeats {other.path} of {other.where}"
        f"{'' if image.fake == other.fake else ' with another label'}: remove one"
        for image in listed
        if (other := first.setdefault(os.path.normpath(image.path), image)) is not image
    ]


def _missing_classes(images: Sequence[ListedImage | LabelledImage], skipped: Sequence[Skipped]) -> list[str]:
    present = {image.fake for image in images}
    first = "; ".join(f"{one.path}: {one.reason}" for one in skipped[:3])
    why = f"; {len(skipped)} files were skipped ({first} …)" if skipped else ""
    return [f"there is no {label} image{why}" for label, fake in LABELS.items() if fake not in present]


def _checked(
    listed: Sequence[ListedImage], splits: Mapping[str, Split], hold: Split | Literal["all"] | None
) -> tuple[tuple[LabelledImage, ...], tuple[Skipped, ...]]:
    """Separate the images that can be decoded from those that cannot. Decoders run in threads: they release the GIL."""
    memory = FileMemory()

    def check(image: ListedImage) -> LabelledImage | Skipped:
        split = splits[image.group]
        return checked_image(image, split, memory if hold in {"all", split} else None)

    # Warning filters, which `decode` changes for a moment, belong to all threads: this block restores them at its end.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        found = list(pool.map(check, listed))
    usable = tuple(one for one in found if isinstance(one, LabelledImage))
    return usable, tuple(one for one in found if isinstance(one, Skipped))


def _contradictions(images: Iterable[LabelledImage]) -> list[str]:
    """Name the files of one content that have two labels, or are in two splits or groups."""
    first: dict[str, LabelledImage] = {}
    mistakes = []
    for image in images:
        other = first.setdefault(image.sha256, image)
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
