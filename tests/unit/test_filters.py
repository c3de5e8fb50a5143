"""What a training takes of a data set: generators left out, labels shuffled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.support.labelled_images import labelled
from worker.datasets.dataset import Dataset, DatasetError
from worker.datasets.filters import with_permuted_labels, without_generators
from worker.datasets.formats import Skipped, Split
from worker.datasets.labelled_image import LabelledImage

SOURCE = Path("data.csv")
SPLITS: tuple[Split, ...] = ("validation", "train", "test", "train")


def image(number: int) -> LabelledImage:
    """Every third one is a fake, of three generators in turn."""
    generator = ("adm", "sdxl", "flux")[number // 3 % 3] if number % 3 == 0 else ""
    return labelled(Path(f"{number}.png"), bool(generator), generator, f"g{number}", SPLITS[number % 4])


DATASET = Dataset(tuple(image(number) for number in range(2000)), (Skipped(Path("x.png"), "gone"),))


def counts(dataset: Dataset) -> Counter[tuple[str, str]]:
    return Counter((found.split, found.generator) for found in dataset.images)


def test_generators_are_left_out_of_what_is_learned_from() -> None:
    found, all_of_them = counts(without_generators(SOURCE, DATASET, ["adm", "flux"])), counts(DATASET)
    gone = {(split, name) for split in ("train", "validation") for name in ("adm", "flux")}
    assert found == {key: count for key, count in all_of_them.items() if key not in gone}
    assert without_generators(SOURCE, DATASET, ["adm"]).skipped == DATASET.skipped
    assert without_generators(SOURCE, DATASET, []) == DATASET


def test_a_generator_that_is_not_there_is_refused() -> None:
    only_in_test = Dataset((*DATASET.images, labelled(Path("t.png"), True, "iddpm", "t", "test")), ())
    with pytest.raises(DatasetError) as caught:
        without_generators(SOURCE, only_in_test, ["sdxl", "SDXL", "iddpm"])
    assert caught.value.mistakes == tuple(
        f"no fake of the generator {name!r} is there to be excluded, only of adm, flux, sdxl"
        for name in ("SDXL", "iddpm")
    )


def test_permuted_labels_are_as_many_of_each_and_tell_nothing() -> None:
    found = with_permuted_labels(DATASET, 3)
    assert [one.path for one in found.images] == [one.path for one in DATASET.images]
    assert [one.split for one in found.images] == [one.split for one in DATASET.images]
    for split in ("train", "validation", "test"):
        dealt, true = ([one.fake for one in dataset.of(split)] for dataset in (found, DATASET))
        assert sum(dealt) == sum(true)
        assert np.corrcoef(dealt, true)[0, 1] == pytest.approx(0, abs=0.15)
    assert {(one.fake, one.generator) for one in found.images} == {(False, ""), (True, "unknown")}


def test_labels_are_dealt_by_the_seed() -> None:
    rng = np.random.default_rng(3)
    dealt = {split: rng.permutation([one.fake for one in DATASET.of(split)]).tolist() for split in SPLITS[:3]}
    assert {split: [one.fake for one in with_permuted_labels(DATASET, 3).of(split)] for split in dealt} == dealt
    assert with_permuted_labels(DATASET, 3) != with_permuted_labels(DATASET, 4)
