"""The manifest, what its photographs are for, and crops."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from tests.support.tiny_training import smooth_picture
from worker.training.demonstration.photographs import (
    WORKING_SIDE,
    Photograph,
    PhotographError,
    Use,
    load,
    random_crop,
    random_crops,
    read_manifest,
)

Package = tuple[Path, tuple[Photograph, ...]]
HELD_OUT_FOR_DEMONSTRATIONS = ("astronaut", "coffee", "chelsea", "rocket")


def test_every_row_of_the_manifest_says_whose_the_photograph_is() -> None:
    for row in read_manifest():
        assert all((row.package, row.version, row.path, row.license, row.author, row.group)), row
        assert re.fullmatch("[0-9a-f]{64}", row.sha256)
        assert row.offset >= 0
        assert row.length > 0


def test_no_photograph_is_listed_twice() -> None:
    digests = [row.sha256 for row in read_manifest()]
    assert len(digests) == len(set(digests)) >= 150


def test_pictures_that_demonstrations_show_are_not_trained_on() -> None:
    assert not [row.path for row in read_manifest() if Path(row.path).stem in HELD_OUT_FOR_DEMONSTRATIONS]


def test_a_group_has_one_use_and_every_use_enough_photographs() -> None:
    uses: dict[str, set[str]] = defaultdict(set)
    sizes = Counter(row.use for row in read_manifest())
    for row in read_manifest():
        uses[row.group].add(row.use)
    assert all(len(found) == 1 for found in uses.values())
    assert set(sizes) == set(get_args(Use))
    assert min(sizes.values()) >= 40


def test_photographs_of_one_subject_share_a_group() -> None:
    groups = defaultdict(list)
    for row in read_manifest():
        groups[row.group].append(row.path)
    assert len(groups["taj-mahal"]) == 2
    assert len(groups["pyramids"]) == 5


def test_a_photograph_is_reduced_to_the_working_side(package: Package) -> None:
    root, manifest = package
    pictures = load(manifest, root)
    assert len(pictures) == len(manifest)
    assert {min(picture.shape[:2]) for picture in pictures} == {WORKING_SIDE}


def test_a_picture_inside_a_container_is_found_by_its_offset(package: Package, tmp_path: Path) -> None:
    root, manifest = package
    data = (root / "blobs" / manifest[0].path).read_bytes()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "container.rcc").write_bytes(b"front matter" + data + b"more")
    inside = replace(manifest[0], path="container.rcc", offset=len(b"front matter"))
    assert np.array_equal(np.asarray(inside.open(tmp_path)), np.asarray(manifest[0].open(root)))


def test_an_altered_photograph_is_refused(package: Package, tmp_path: Path) -> None:
    root, manifest = package
    data = bytearray((root / "blobs" / manifest[0].path).read_bytes())
    data[-20] ^= 1
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / manifest[0].path).write_bytes(data)
    with pytest.raises(PhotographError, match="digest differs"):
        manifest[0].open(tmp_path)


def test_a_missing_photograph_names_the_package_to_unpack(package: Package, tmp_path: Path) -> None:
    with pytest.raises(PhotographError, match="unpack blobs 1"):
        package[1][0].open(tmp_path)


def test_crops_are_squares_at_several_scales() -> None:
    ramp = np.repeat(np.arange(0, 240, dtype=np.uint8)[:, None, None], 320, axis=1).repeat(3, axis=2)
    rng = np.random.default_rng(0)
    spans = [int(np.ptp(random_crop(ramp, 32, rng))) for _ in range(60)]
    assert max(spans) > 200  # nearly the whole shorter side
    assert min(spans) < 130  # about half of it


def test_crops_depend_on_the_generator_alone() -> None:
    pictures = [smooth_picture(seed) for seed in range(3)]
    first, again, other = (random_crops(pictures, 5, 16, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (5, 16, 16, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
