"""The network's input equals torchvision's transforms, by which it was trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Resize
from torchvision.transforms.functional import to_tensor

from shared.images.visualizations import analyzed_region
from tests.support.bad_images import photograph
from worker.imaging.decoding import preprocess

_SIZES = [
    (1, 1), (2, 3), (1, 32), (32, 1), (63, 64), (64, 64), (65, 64), (97, 64), (100, 3200), (255, 256), (257, 256), (333,
    64), (451, 300), (300, 451), (512, 512), (600, 400), (640, 427), (1080, 1920), (1920, 1080), (2001, 1003),
]  # fmt: skip


def torchvision_input(image: Image.Image, size: int, dtype: torch.dtype) -> np.ndarray:
    x: torch.Tensor = CenterCrop(size)(Resize(size, antialias=True)(to_tensor(image).to(dtype) * 2 - 1))
    return x.numpy()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [64, 224, 256])
@pytest.mark.parametrize(("width", "height"), _SIZES)
def test_it_is_torchvisions_in_float64(width: int, height: int, size: int):
    """In float32 torch rounds the positions of its filter, which noise, the worst case, turns into errors of 1e-4."""
    image = noise(width, height)
    np.testing.assert_allclose(preprocess(image, size), torchvision_input(image, size, torch.float64), atol=1e-6)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (512, 512), (1024, 768), (768, 1024)])
def test_it_is_torchvisions_in_float32(width: int, height: int):
    image = photograph(width, height)
    np.testing.assert_allclose(preprocess(image, 256), torchvision_input(image, 256, torch.float32), atol=1e-5)


@pytest.mark.parametrize(("width", "height"), [size for size in _SIZES if min(size) >= 64])
def test_the_region_is_what_the_crop_shows(width: int, height: int):
    """What lies outside the region does not reach the input, but for the filter's margin."""
    region = analyzed_region(width, height, 64)
    inside = np.zeros((height, width, 3), np.uint8)
    inside[region.y : region.y + region.height, region.x : region.x + region.width] = 255
    x = preprocess(Image.fromarray(inside), 64)
    assert x[:, 2:-2, 2:-2].min() == pytest.approx(1, abs=1e-6)
    assert region.width == width or region.height == height
