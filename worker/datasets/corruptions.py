"""What may happen to an image on its way to a platform, done to the original before the model's preprocessing."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

Change = Callable[[Image.Image, np.random.Generator], Image.Image]
"""Takes an upright RGB image and a generator of this image's own; returns an RGB image."""

QUALITIES = (60, 95)
"""JPEG qualities of the format control, the same for both classes."""

AS_STORED, AS_JPEG, AS_IT_IS = "as stored", "JPEG", "as it is"
"""Formats, and the resize history of what was not resized."""

_CROPPED = 0.8
_SHRUNK = 0.5
_HISTORY = 0.75


def as_it_is(image: Image.Image, rng: np.random.Generator) -> Image.Image:  # noqa: ARG001  # a Change
    """Return the image."""
    return image


def robustness_corruptions(side: int) -> Mapping[str, Change]:
    """Return the changes that a detector should withstand; `side`: of what the model sees, in pixels."""
    return {
        "JPEG 90": partial(_jpeg, qualities=(90, 90)),
        "JPEG 70": partial(_jpeg, qualities=(70, 70)),
        "JPEG 50": partial(_jpeg, qualities=(50, 50)),
        "half size": partial(_resized, factor=_SHRUNK),
        "blur": partial(_blurred, side=side),
        "crop": _cropped,
    }


def format_conversions() -> Mapping[tuple[str, str], Change]:
    """Return the cells of the format control that change an image: (file format, resize history) -> change.

    As stored, an image keeps what its own file did to the pixels, such as JPEG's blocks; no format takes them away.
    """
    return {
        (AS_JPEG, AS_IT_IS): partial(_jpeg, qualities=QUALITIES),
        (AS_STORED, "resized"): partial(_resized, factor=_HISTORY),
        (AS_JPEG, "resized"): _resized_jpeg,
    }


def _jpeg(image: Image.Image, rng: np.random.Generator, qualities: tuple[int, int]) -> Image.Image:
    """Saved with a quality of this range and halved chroma (4:2:0), as most programs do it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(qualities[0], qualities[1] + 1)), subsampling="4:2:0")
    return Image.open(file).convert("RGB")


def _resized(image: Image.Image, rng: np.random.Generator, factor: float) -> Image.Image:  # noqa: ARG001  # a Change
    width, height = (max(round(length * factor), 1) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _resized_jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _jpeg(_resized(image, rng, _HISTORY), rng, QUALITIES)


def _blurred(image: Image.Image, rng: np.random.Generator, side: int) -> Image.Image:  # noqa: ARG001  # a Change
    """Gaussian, with a standard deviation of one pixel of what the model sees: so it means the same at every size."""
    return image.filter(ImageFilter.GaussianBlur(min(image.size) / side))


def _cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of four fifths of both sides, anywhere."""
    width, height = (max(round(length * _CROPPED), 1) for length in image.size)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))
