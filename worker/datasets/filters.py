"""What a training uses of a data set: without some generators' fakes, or with shuffled labels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from worker.datasets.dataset import Dataset, DatasetError
from worker.datasets.formats import UNKNOWN_GENERATOR, Split
from worker.datasets.labelled_image import LabelledImage

_LEARNED: tuple[Split, ...] = ("train", "validation")


def without_generators(source: Path, dataset: Dataset, names: Collection[str]) -> Dataset:
    """Exclude some generators' fakes from the splits train and validation; the split test stays as it is.

    Raises:
        DatasetError: one of them has no fakes to exclude; the message names the generators that have some.
    """
    present = {image.generator for image in dataset.images if image.fake and image.split in _LEARNED}
    if unknown := [name for name in names if name not in present]:
        known = ", ".join(sorted(present)) or "none"
        faults = [f"no fake of the generator {name!r} is there to be excluded, only of {known}" for name in unknown]
        raise DatasetError(source, faults)
    images = [image for image in dataset.images if image.split not in _LEARNED or image.generator not in names]
    return replace(dataset, images=tuple(images))


def with_permuted_labels(dataset: Dataset, seed: int) -> Dataset:
    """Shuffle the labels of each split: what a student learns from them is chance. Generators are forgotten."""
    rng = np.random.default_rng(seed)
    shuffled = {
        split: iter(rng.permutation([image.fake for image in dataset.of(split)]).tolist())
        for split in dict.fromkeys(image.split for image in dataset.images)
    }
    return replace(dataset, images=tuple(_labelled(image, next(shuffled[image.split])) for image in dataset.images))


def _labelled(image: LabelledImage, fake: bool) -> LabelledImage:
    return replace(image, fake=fake, generator=UNKNOWN_GENERATOR if fake else "")
