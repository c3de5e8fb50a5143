"""Random encoding histories: how a picture is enlarged, or not, and saved before it reaches the service.

In many data sets real images are JPEG files and generated images are PNG files, so a detector learns the format. Here
the history of every picture is drawn in the same way, whatever its class.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from worker.training.demonstration.photographs import Pixels

_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class SavedPicture:
    """A file's content and the suffix of its name."""

    content: bytes
    suffix: str


def saved(pixels: Pixels, rng: np.random.Generator) -> SavedPicture:
    """Give a picture (S, S, 3) a random history that depends only on `rng`.

    Half of the pictures are saved as PNG, three in ten as JPEG and two in ten as WebP, with qualities from 60 to 98.
    """
    image = _perhaps_enlarged(Image.fromarray(pixels), rng)
    kind = str(rng.choice(["PNG", "JPEG", "WEBP"], p=[0.5, 0.3, 0.2]))
    quality = int(rng.integers(60, 99))
    file = io.BytesIO()
    image.save(file, kind, **({} if kind == "PNG" else {"quality": quality}))
    return SavedPicture(file.getvalue(), f".{kind.lower()}")


def _perhaps_enlarged(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Enlarge three in ten pictures up to four times, as people do with small pictures."""
    if rng.random() >= 0.3:
        return image
    side = round(image.width * rng.uniform(1.2, 4.0))
    return image.resize((side, side), _FILTERS[rng.integers(len(_FILTERS))])
