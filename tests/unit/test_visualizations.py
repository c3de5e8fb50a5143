"""DIRE map, heatmap, overlay, and the files they are written to."""

from __future__ import annotations

import io
import itertools
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from shared.domain import PICTURES, Region
from shared.images import visualizations
from shared.images.colormap import ramp
from shared.images.png import write_png
from shared.images.visualizations import (
    analyzed_region,
    dire_map_png,
    draw_pictures,
    has_contrast,
    heatmap_png,
    heatmap_rows,
    heatmap_scores,
    overlay_png,
    preview_jpeg,
)
from tests.support.bad_images import photograph

_DICE = np.random.default_rng(5)
_GREY = (72, 72, 72)


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def mean_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 31 + width).normal(2, 3, (height, width)).astype(np.float32)


def scores_by_definition(mean: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bilinear interpolation sample by sample, in float64."""
    resized = np.empty((height, width))
    for row, column in itertools.product(range(height), range(width)):
        y = min(max((row + 0.5) * mean.shape[0] / height - 0.5, 0), mean.shape[0] - 1)
        x = min(max((column + 0.5) * mean.shape[1] / width - 0.5, 0), mean.shape[1] - 1)
        top, left = int(y), int(x)
        below, right = min(top + 1, mean.shape[0] - 1), min(left + 1, mean.shape[1] - 1)
        upper = mean[top, left] * (1 - (x - left)) + mean[top, right] * (x - left)
        lower = mean[below, left] * (1 - (x - left)) + mean[below, right] * (x - left)
        resized[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    scores: np.ndarray = (resized - resized.min()) / (resized.max() - resized.min() + 1e-6)
    return scores


@pytest.mark.parametrize("shape", [(8, 8), (2, 2), (1, 1), (3, 5), (1, 7), (16, 9)])
@pytest.mark.parametrize("size", [(40, 30), (1, 1), (7, 5), (8, 8), (3, 50)])
def test_scores_are_the_published_formula(shape: tuple[int, int], size: tuple[int, int]):
    mean = mean_of(*shape)
    scores = heatmap_scores(mean, *size)
    assert scores.shape == size[::-1]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, scores_by_definition(mean, *size), atol=2e-6)


def test_scores_span_zero_to_one():
    scores = heatmap_scores(mean_of(8, 8), 333, 222)
    assert 0 <= scores.min() < 1e-6
    assert 1 - 1e-5 < scores.max() <= 1


def test_a_flat_mean_scores_nothing():
    assert (heatmap_scores(np.full((8, 8), 3.3, np.float32), 20, 10) == 0).all()


@pytest.mark.parametrize("level", [0.0, 1e-9, 0.2, -40.0])
def test_a_mean_without_contrast_is_drawn_flat_and_not_stretched(level: float):
    image, region = photograph(90, 60), analyzed_region(90, 60, 64)
    noise = np.random.default_rng(9).uniform(-1, 1, (6, 6)).astype(np.float32)
    flat = np.full((6, 6), level, np.float32)
    lowest = ramp(255)[0]
    for mean in (flat, flat + np.float32(1e-5 * abs(level)) * noise):
        inside = opened(heatmap_png(mean, 90, 60, region))[:, region.x : region.x + region.width]
        assert (inside == lowest).all()
        np.testing.assert_array_equal(
            opened(overlay_png(image, mean, region)), opened(overlay_png(image, flat, region))
        )
    varied = np.float32(0.01 * max(abs(level), 1e-3)) * noise + flat
    assert len(np.unique(opened(heatmap_png(varied, 90, 60, region))[..., 0])) > 100, "faint is not flat"


def test_contrast_is_more_than_float_noise():
    assert has_contrast(np.array([[0.2, 0.2005]], np.float32))
    assert not has_contrast(np.array([[0.2, 0.2001]], np.float32))
    assert not has_contrast(np.array([[-0.2, -0.2001]], np.float32))
    assert has_contrast(np.array([[-1e-9, 1e-9]], np.float32))
    assert not has_contrast(np.array([[-1e-9, 1e-9]], np.float32), scale=1)
    assert has_contrast(np.array([[0, np.nan]], np.float32)), "not flat: what draws it refuses it"


def test_every_picture_that_a_job_can_ask_for_is_drawn():
    image, eps, mean = photograph(20, 10), np.zeros((3, 8, 8), np.float32), mean_of(2, 2)
    pictures = draw_pictures(PICTURES, image, eps, mean)
    assert tuple(pictures) == PICTURES
    assert pictures["overlay"] == overlay_png(image, mean, analyzed_region(20, 10, 8))
    assert draw_pictures(["heatmap"], image, eps, mean).keys() == {"heatmap"}


@pytest.mark.parametrize("draw", [heatmap_png, overlay_png])
def test_no_picture_is_drawn_of_what_is_no_number(draw: Callable[..., bytes]):
    mean, region = np.array([[0, np.nan]], np.float32), Region(0, 0, 20, 10)
    arguments = (mean, 20, 10, region) if draw is heatmap_png else (photograph(20, 10), mean, region)
    with pytest.raises(ValueError, match="not finite"):
        draw(*arguments)


def test_a_mean_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        heatmap_scores(np.array([[0, np.nan]], np.float32), 20, 10)


def test_rows_come_in_bands_of_bounded_memory():
    tracemalloc.start()
    try:
        rows = sum(len(band) for band in heatmap_rows(mean_of(8, 8), 8000, 5000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows == 5000
    assert peak < 10_000_000, "the whole would be 160 MB"


@pytest.mark.parametrize(
    ("size", "region"),
    [
        ((512, 512), Region(0, 0, 512, 512)),
        ((1920, 1080), Region(422, 0, 1080, 1080)),
        ((1080, 1920), Region(0, 422, 1080, 1080)),
        ((1, 1), Region(0, 0, 1, 1)),
        ((1, 32), Region(0, 16, 1, 1)),
        ((600, 400), Region(100, 0, 400, 400)),
    ],
)
def test_the_region_is_the_square_in_the_middle(size: tuple[int, int], region: Region):
    assert analyzed_region(*size, 256) == region


def test_a_region_never_leaves_the_image():
    for width, height in _DICE.integers(1, 400, (500, 2)).tolist():
        region = analyzed_region(width, height, 64)
        assert min(region.x, region.y) >= 0
        assert min(region.width, region.height) >= 1
        assert region.x + region.width <= width
        assert region.y + region.height <= height


def test_the_dire_map_is_scaled_by_its_extremes_over_all_channels():
    eps = _DICE.normal(size=(3, 64, 64)).astype(np.float32)
    normalised = (eps - eps.min()) / (eps.max() - eps.min() + 1e-6)
    np.testing.assert_array_equal(opened(dire_map_png(eps)), (normalised * 255).astype(np.uint8).transpose(1, 2, 0))


@pytest.mark.parametrize("level", [0.0, 0.7, -5.0])
def test_a_dire_map_without_contrast_is_black(level: float):
    noise = _DICE.uniform(-1, 1, (3, 64, 64)).astype(np.float32)
    for eps in (np.full((3, 64, 64), level, np.float32), level + np.float32(1e-5) * noise):
        assert not opened(dire_map_png(eps)).any()
    assert opened(dire_map_png(level + np.float32(0.01) * noise)).max() == 254, "faint is not flat"


def test_a_heatmap_is_drawn_on_the_region_alone():
    region = analyzed_region(90, 60, 64)
    mean = mean_of(4, 4)
    drawn = opened(heatmap_png(mean, 90, 60, region))
    assert drawn.shape == (60, 90, 3)
    levels = np.round(heatmap_scores(mean, region.width, region.height) * 254).astype(int)
    np.testing.assert_array_equal(drawn[:, region.x : region.x + region.width], ramp(255)[levels])
    assert (drawn[:, : region.x] == _GREY).all()
    assert (drawn[:, region.x + region.width :] == _GREY).all()


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (64, 64), (1, 1), (1, 32), (300, 11)])
def test_an_overlay_blends_inside_and_dims_outside(size: tuple[int, int]):
    image = photograph(*size)
    mean, region = mean_of(4, 4), analyzed_region(*size, 64)
    colours = opened(heatmap_png(mean, *size, region)).astype(float)
    pixels = np.asarray(image).astype(float)
    expected = pixels * 0.35
    inside = np.s_[region.y : region.y + region.height, region.x : region.x + region.width]
    expected[inside] = pixels[inside] * 0.55 + colours[inside] * 0.45
    np.testing.assert_allclose(opened(overlay_png(image, mean, region)), expected, atol=2)


@pytest.mark.parametrize("size", [(90, 60), (60, 90)])
def test_pictures_do_not_depend_on_the_bands(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    image, mean, region = photograph(*size), mean_of(4, 4), analyzed_region(*size, 64)
    whole = opened(overlay_png(image, mean, region)), opened(heatmap_png(mean, *size, region))
    monkeypatch.setattr(visualizations, "_BAND_PIXELS", 500)
    np.testing.assert_array_equal(opened(overlay_png(image, mean, region)), whole[0])
    np.testing.assert_array_equal(opened(heatmap_png(mean, *size, region)), whole[1])


def oklab(srgb: np.ndarray) -> np.ndarray:
    """sRGB to OKLab by the matrices as published for this direction, which the code does not use."""
    encoded = srgb / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_cones = [
        (0.4122214708, 0.5363325363, 0.0514459929),
        (0.2119034982, 0.6806995451, 0.1073969566),
        (0.0883024619, 0.2817188376, 0.6299787005),
    ]
    to_lab = [
        (0.2104542553, 0.7936177850, -0.0040720468),
        (1.9779984951, -2.4285922050, 0.4505937099),
        (0.0259040371, 0.7827717662, -0.8086757660),
    ]
    lab: np.ndarray = np.cbrt(linear @ np.transpose(to_cones)) @ np.transpose(to_lab)
    return lab


def test_colours_grow_lighter_in_even_steps():
    lab = oklab(ramp(64).astype(float))
    assert (np.diff(lab[:, 0]) > 0.002).all()
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    assert steps.max() / steps.min() < 1.5


def test_a_png_of_bands_reads_back():
    pixels = _DICE.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    np.testing.assert_array_equal(opened(write_png(53, 37, [pixels[:10], pixels[10:11], pixels[11:]])), pixels)


def test_a_png_of_too_few_rows_is_refused():
    with pytest.raises(ValueError, match="10 rows got 9"):
        write_png(4, 10, [np.zeros((9, 4, 3), np.uint8)])


@pytest.mark.parametrize(
    ("size", "shown"),
    [((300, 200), (300, 200)), ((4096, 1024), (2048, 512)), ((1024, 4096), (512, 2048)), ((2049, 999), (1025, 500))],
)
def test_a_preview_has_at_most_2048_pixels_a_side(size: tuple[int, int], shown: tuple[int, int]):
    with Image.open(io.BytesIO(preview_jpeg(Image.new("RGB", size, (10, 200, 90))))) as preview:
        assert (preview.format, preview.size) == ("JPEG", shown)


def test_a_preview_shows_the_image():
    image = photograph(64, 48)
    with Image.open(io.BytesIO(preview_jpeg(image))) as preview:
        assert np.abs(np.asarray(preview, int) - np.asarray(image, int)).mean() < 10


def test_a_preview_holds_nothing_of_the_file_but_its_pixels():
    canary, file = b"canary", io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = canary.decode()
    Image.new("RGB", (64, 48)).save(file, "JPEG", comment=canary, exif=exif, icc_profile=canary * 40)
    with Image.open(file) as upload:
        upload.load()
        assert file.getvalue().count(canary) > 40
        assert canary not in preview_jpeg(upload)
        assert upload.info["comment"] == canary  # the image itself is left as it is
