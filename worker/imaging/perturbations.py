"""Small changes that a platform's own processing might make to an image. They should not change the verdict.

They run in the sandbox's children, so they use only numpy and Pillow.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

from PIL import Image

_SHARE = 0.75


def _saved(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.copy().save(file, "JPEG", quality=quality)  # of an opened file, Pillow would ask for the working directory
    reread = Image.open(file, formats=["JPEG"])
    reread.load()
    return reread


def _smaller(image: Image.Image) -> Image.Image:
    width, height = (max(round(_SHARE * side), 1) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _flipped(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


#: Each takes an upright RGB image and returns another: JPEG of quality 90 and 60, three quarters of the size, mirrored.
PERTURBATIONS: tuple[Callable[[Image.Image], Image.Image], ...] = (
    partial(_saved, quality=90),
    partial(_saved, quality=60),
    _smaller,
    _flipped,
)
