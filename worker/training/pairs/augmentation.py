"""Augmentation of images by seed: crop, resize, mirror, compress as JPEG.

It changes the pixels before preprocessing and before the noise map is computed.
"""

from __future__ import annotations

import hashlib
import io
import math

import numpy as np
from PIL import Image

from worker.imaging.decoding import preprocess
from worker.training.recipe import Augmentation

_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
_PROBES = 8
_LARGEST_SIDE = 65_500  # libjpeg's limit for a JPEG file
_LARGEST_AREA = 80_000_000  # pixels; above 89 million Pillow suspects a bomb


def augmented(image: Image.Image, options: Augmentation, rng: np.random.Generator) -> Image.Image:
    """Return a random version of an RGB image. The random choices depend only on `rng` and `options`."""
    if rng.random() < options.crop_probability:
        image = _cropped(image, options, rng)
    if rng.random() < options.resize_probability:
        image = _resized(image, options, rng)
    if rng.random() < options.flip_probability:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < options.jpeg_probability:
        image = _compressed(image, int(rng.integers(options.jpeg_qualities[0], options.jpeg_qualities[1] + 1)))
    return image


def pixels_digest(options: Augmentation, size: int) -> str:
    """Return a hexadecimal digest of the output of augmentation and preprocessing for a test picture.

    It changes when their code, Pillow or the JPEG library changes the output, so that pairs from an older version are
    not mistaken for current ones.
    """
    found = hashlib.sha256()
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((280, 200), Image.Resampling.BICUBIC)
    for probe in range(_PROBES):
        version = augmented(picture, options, np.random.default_rng([1, probe]))
        found.update(preprocess(version, size).astype(np.float16).tobytes())
    return found.hexdigest()


def _cropped(image: Image.Image, options: Augmentation, rng: np.random.Generator) -> Image.Image:
    share = rng.uniform(*options.crop_sides)
    width, height = max(1, round(share * image.width)), max(1, round(share * image.height))
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _resized(image: Image.Image, options: Augmentation, rng: np.random.Generator) -> Image.Image:
    factor = min(rng.uniform(*options.resize_factors), _largest_factor(image))
    size = max(1, round(factor * image.width)), max(1, round(factor * image.height))
    return image.resize(size, _FILTERS[rng.integers(len(_FILTERS))])


def _largest_factor(image: Image.Image) -> float:
    """Return the largest factor by which an image can be enlarged within the limits; 1 if it exceeds them already."""
    by_side = _LARGEST_SIDE / max(image.size)
    by_area = math.sqrt(_LARGEST_AREA / (image.width * image.height))
    return max(1.0, min(by_side, by_area))


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")
