"""What happens to a picture between its maker and the service: enlarged or not, and saved as some file.

Photographs tend to reach a data set as JPEG and generated images as PNG, and a detector then learns the format. Here
one history is drawn for every picture, whatever its class.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.imaging import preprocess
from worker.training.photographs import Pixels

_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def seen_by_service(pixels: Pixels, rng: np.random.Generator) -> NDArray[np.float32]:
    """Give a picture (S, S, 3) a random history; return what the networks then see, (3, S, S) float32 in [-1, 1]."""
    image = _saved(_perhaps_enlarged(Image.fromarray(pixels), rng), rng)
    return preprocess(image, len(pixels))


def _perhaps_enlarged(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Three in ten pictures are enlarged up to four times, as people do with small ones."""
    if rng.random() >= 0.3:
        return image
    side = round(image.width * rng.uniform(1.2, 4.0))
    return image.resize((side, side), _FILTERS[rng.integers(len(_FILTERS))])


def _saved(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Half of the pictures stay as they are (PNG is lossless); the others go through JPEG or WebP."""
    kind = rng.choice(["PNG", "JPEG", "WEBP"], p=[0.5, 0.3, 0.2])
    if kind == "PNG":
        return image
    file = io.BytesIO()
    image.save(file, kind, quality=int(rng.integers(60, 99)))
    return Image.open(file).convert("RGB")
