"""The control that reads no pixel: it finds what a file's history gives away, and nothing where there is nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.labelled_images import labelled
from tests.support.tiny_dataset import write_dataset
from worker.datasets.dataset import read_dataset
from worker.datasets.labelled_image import LabelledImage
from worker.evaluation.estimates import Resampling, chance_average_precision, estimates_of, labels_leak
from worker.evaluation.file_baseline import cross_validated, file_features, fold_of, probabilities_by_file
from worker.imaging.decoding import ImageLimits, decode
from worker.metrics.ranking import average_precision


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC)


def images(folder: Path, *, telling: bool) -> list[LabelledImage]:
    """Sixty JPEGs; if `telling`, those of fakes have another range of qualities."""
    rng = np.random.default_rng(1)
    found = []
    for number in range(60):
        fake, path = number % 2 == 0, folder / f"{number}.jpg"
        picture(number).save(path, quality=int(rng.integers(85, 96) if telling and fake else rng.integers(60, 80)))
        found.append(labelled(path, fake, "adm" if fake else "", str(number)))
    return found


@pytest.mark.parametrize(("telling", "low", "high"), [(True, 0.98, 1.0), (False, 0.3, 0.7)])
def test_qualities_of_one_class_are_found(tmp_path: Path, telling: bool, low: float, high: float):
    found = images(tmp_path, telling=telling)
    fake = np.array([image.fake for image in found])
    assert low <= average_precision(probabilities_by_file(found), fake) <= high


def test_no_image_helps_to_judge_its_own_photograph():
    """Each group has features of its own and one label: who saw the group would know all."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(30), 4)
    fake = np.repeat(rng.permutation(np.arange(30) % 2 == 0), 4)
    features = np.repeat(rng.normal(size=(30, 25)), 4, axis=0)
    assert average_precision(cross_validated(features, fake, groups.astype(str), seed=0), fake) < 0.75
    alone = np.arange(120).astype(str)
    assert average_precision(cross_validated(features, fake, alone, seed=0), fake) > 0.8


def test_a_group_is_in_one_fold_and_folds_are_alike():
    groups = np.repeat(np.arange(50).astype(str), 3)
    folds = fold_of(groups, 5, seed=3)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
    assert np.bincount(folds).tolist() == [30] * 5


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff", "avif"])
def test_every_accepted_format_has_features(tmp_path: Path, suffix: str):
    picture(0).save(tmp_path / f"one.{suffix}")
    picture(0).convert("L").save(tmp_path / f"grey.{suffix}")
    first, second = (file_features((tmp_path / f"{name}.{suffix}").read_bytes()) for name in ("one", "grey"))
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()
    assert len(first) == len(second)


def test_damaged_descriptions_and_steps_of_nothing_are_features_too(tmp_path: Path):
    """Such files can be decoded, so they reach this control."""
    picture(0).save(tmp_path / "described.jpg", exif=b"Exif\x00\x00neither II nor MM")
    picture(0).save(tmp_path / "steps.jpg")
    data = bytearray((tmp_path / "steps.jpg").read_bytes())
    data[data.index(b"\xff\xdb") + 5] = 0
    (tmp_path / "steps.jpg").write_bytes(data)
    for name in ("described", "steps"):
        decode(tmp_path / f"{name}.jpg", ImageLimits())
        assert np.isfinite(file_features((tmp_path / f"{name}.jpg").read_bytes())).all(), name


@pytest.mark.parametrize(("stored", "leak"), [("as the page says", False), ("compressed", True)])
def test_the_pictures_of_the_training_page_give_nothing_away(tmp_path: Path, stored: str, leak: bool):
    """Stripes compress worse: had the files been compressed, their sizes would tell what is fake."""
    data = write_dataset(tmp_path, each=40)
    if stored == "compressed":
        for path in tmp_path.glob("*.png"):
            Image.open(path).save(path)
    found = read_dataset(data).images
    fake, groups = np.array([image.fake for image in found]), np.array([image.group for image in found])
    by_file = estimates_of(probabilities_by_file(found), fake, groups, 0.5).estimates["average_precision"]
    chance = chance_average_precision(np.random.default_rng(0).random(len(found)), fake, groups, Resampling())
    assert labels_leak(by_file, chance) is leak
