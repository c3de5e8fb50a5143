"""Pictures of both classes: crops of photographs, and what the ADM makes from noise or out of such crops.

Both are 8-bit squares of the ADM's own size. Whatever happens to them later (`file_history`) is the same for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.model.diffusion import Denoiser, SpacedDiffusion
from worker.training.photographs import Pixels, random_crops

PHOTOGRAPH, SAMPLE, SDEDIT, RECONSTRUCTION = "photograph", "sample", "sdedit", "reconstruction"
SDEDIT_STARTS = (1, 2, 4, 6, 9, 12)
"""Kept steps to which SDEdit noises a photograph before it denoises it: with ddim20, t = 50 … 600 of 1000."""

BATCH = 20
"""Counts that it divides need the ADM compiled for one shape only."""


@dataclass(frozen=True)
class PictureCounts:
    """How many pictures of each kind; SDEdit's are spread evenly over `SDEDIT_STARTS`."""

    photographs: int
    samples: int
    sdedits: int
    reconstructions: int


@dataclass(frozen=True)
class Pictures:
    """`pixels` (N, S, S, 3) uint8 and the kind of each, (N,) of the names above."""

    pixels: Pixels
    kinds: NDArray[np.str_]

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        np.savez(path, pixels=self.pixels, kinds=self.kinds)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["pixels"], arrays["kinds"])


class Faker:
    """Makes fakes with one ADM. `unet` is float32 or anything that takes and gives float32."""

    def __init__(self, unet: Denoiser, diffusion: SpacedDiffusion, size: int) -> None:
        self.unet, self.diffusion, self.size = unet, diffusion, size

    def sample(self, count: int, rng: np.random.Generator) -> Pixels:
        """Images from pure noise by DDIM, (count, S, S, 3)."""
        return _in_batches(_noise(count, self.size, rng), lambda x: self.diffusion.sample(self.unet, x))

    def sdedit(self, photographs: Pixels, start: int, rng: np.random.Generator) -> Pixels:
        """Noise pictures to the kept step `start`, then denoise them (SDEdit, Meng et al. 2022)."""
        alpha_bar = self.diffusion.alpha_bars[start]
        noise = _noise(len(photographs), self.size, rng)
        noised = math.sqrt(alpha_bar) * to_unit(photographs) + math.sqrt(1 - alpha_bar) * noise
        return _in_batches(noised, lambda x: self.diffusion.sample(self.unet, x, start=start))

    def reconstruct(self, photographs: Pixels) -> Pixels:
        """Invert pictures to noise by DDIM and denoise them again: the reconstruction that DIRE measures."""
        return _in_batches(to_unit(photographs), lambda x: self.diffusion.reconstruct(self.unet, x))


def make_pictures(faker: Faker, photographs: Sequence[Pixels], counts: PictureCounts, seed: int) -> Pictures:
    """Make one split's pictures from its photographs. Every fake that starts from a photograph has its own crop."""
    rng = np.random.default_rng(seed)

    def crops(count: int) -> Pixels:
        return random_crops(photographs, count, faker.size, rng)

    each = counts.sdedits // len(SDEDIT_STARTS)
    parts = [
        (PHOTOGRAPH, crops(counts.photographs)),
        (SAMPLE, faker.sample(counts.samples, rng)),
        *((SDEDIT, faker.sdedit(crops(each), start, rng)) for start in SDEDIT_STARTS),
        (RECONSTRUCTION, faker.reconstruct(crops(counts.reconstructions))),
    ]
    kinds = np.concatenate([np.full(len(pixels), kind) for kind, pixels in parts])
    return Pictures(np.concatenate([pixels for _, pixels in parts]), kinds)


def to_unit(pixels: Pixels) -> Tensor:
    """(N, S, S, 3) uint8 -> (N, 3, S, S) float32 in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(x: Tensor) -> Pixels:
    """(N, 3, S, S) in [-1, 1] -> (N, S, S, 3) uint8, rounded."""
    pixels: Pixels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pixels


def _noise(count: int, size: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal((count, 3, size, size), dtype=np.float32))


@torch.no_grad()
def _in_batches(x: Tensor, make: Callable[[Tensor], Tensor]) -> Pixels:
    return np.concatenate([to_pixels(make(batch)) for batch in torch.split(x, BATCH)])
