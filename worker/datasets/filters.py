"""What a training takes of a data set: all but some generators' fakes, or labels that mean nothing."""

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
    """Leave some generators' fakes out of the splits train and validation; the split test stays as it is.

    Raises:
        DatasetError: there is no fake of one of them to leave out; those that there are are named.
    """
    present = {image.generator for image in dataset.images if image.fake and image.split in _LEARNED}
    if unknown := [name for name in names if name not in present]:
        known = ", ".join(sorted(present)) or "none"
        faults = [f"no fake of the generator {name!r} is there to be left out, only of {known}" for name in unknown]
        raise DatasetError(source, faults)
    images = [image for image in dataset.images if image.split not in _LEARNED or image.generator not in names]
    return replace(dataset, images=tuple(images))


def with_permuted_labels(dataset: Dataset, seed: int) -> Dataset:
    """Deal the labels of each split out anew: what a student learns from them is chance. Generators are forgotten."""
    rng = np.random.default_rng(seed)
    dealt = {
        split: iter(rng.permutation([image.fake for image in dataset.of(split)]).tolist())
        for split in dict.fromkeys(image.split for image in dataset.images)
    }
    return replace(dataset, images=tuple(_labelled(image, next(dealt[image.split])) for image in dataset.images))


def _labelled(image: LabelledImage, fake: bool) -> LabelledImage:
    return replace(image, fake=fake, generator=UNKNOWN_GENERATOR if fake else "")
