"""What may happen to an image on its way."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from worker.datasets.corruptions import QUALITIES, format_conversions, robustness_corruptions


@pytest.fixture
def image() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def distance(image: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(image, float) - np.asarray(other, float)).mean())


def test_less_quality_changes_more(image: Image.Image):
    rng, corruptions = np.random.default_rng(1), robustness_corruptions(64)
    distances = [distance(corruptions[f"JPEG {quality}"](image, rng), image) for quality in (90, 70, 50)]
    assert 0 < distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize(("name", "size"), [("half size", (60, 45)), ("crop", (96, 72)), ("blur", (120, 90))])
def test_sizes_after_a_change(image: Image.Image, name: str, size: tuple[int, int]):
    assert robustness_corruptions(64)[name](image, np.random.default_rng(2)).size == size


@pytest.mark.parametrize("name", list(robustness_corruptions(64)))
def test_the_smallest_image_survives(name: str):
    changed = robustness_corruptions(64)[name](Image.new("RGB", (1, 1), "red"), np.random.default_rng(3))
    assert changed.mode == "RGB"
    assert min(changed.size) >= 1


def test_blur_means_the_same_at_every_size(image: Image.Image):
    blur, rng = robustness_corruptions(30)["blur"], np.random.default_rng(4)
    large = image.resize((480, 360), Image.Resampling.BICUBIC)
    small_after = blur(large, rng).resize(image.size, Image.Resampling.BOX)
    assert distance(small_after, blur(image, rng)) < 0.25 * distance(small_after, image)


def test_both_formats_and_both_histories_are_crossed(image: Image.Image):
    corruptions = format_conversions()
    crossed = {(kind, history) for kind in ("as stored", "JPEG") for history in ("as it is", "resized")}
    assert set(corruptions) == crossed - {("as stored", "as it is")}, "which every evaluation has already"
    assert corruptions["JPEG", "resized"](image, np.random.default_rng(5)).size == (90, 68)


def test_qualities_are_drawn_from_the_whole_range(image: Image.Image):
    jpeg = format_conversions()["JPEG", "as it is"]
    drawn = [distance(jpeg(image, np.random.default_rng(seed)), image) for seed in range(40)]
    ends = [distance(_saved(image, quality), image) for quality in QUALITIES]
    assert min(drawn) < ends[1] * 1.5
    assert max(drawn) > ends[0] * 0.8


def _saved(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(file).convert("RGB")
