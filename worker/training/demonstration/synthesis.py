"""Makes fakes that keep a photograph's content, and images sampled from noise: 8-bit squares of the ADM's size.

What happens to pictures afterwards (`encoding_history`) is the same for photographs and fakes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from worker.model.diffusion import Denoiser, SpacedDiffusion, q_sample
from worker.training.demonstration.photographs import Pixels, to_pixels, to_unit

BATCH = 20

Kind = str
"""`sampled`, `reconstruction`, `sdedit-T` or `ancestral-T`; noise is added up to step T of 1000."""


class Faker:
    """Makes fakes with one ADM. `unet` must take and return float32."""

    def __init__(self, unet: Denoiser, diffusion: SpacedDiffusion, size: int) -> None:
        self.unet, self.diffusion, self.size = unet, diffusion, size

    def make(self, kind: Kind, photographs: Pixels, rng: np.random.Generator) -> Pixels:
        """Make a fake of each photograph (N, S, S, 3); for `sampled`, make as many images from noise."""
        name, _, step = kind.partition("-")
        if name == "sampled":
            return self.sample(len(photographs), rng)
        if name == "reconstruction":
            return self.reconstruct(photographs)
        edit = {"sdedit": self.sdedit, "ancestral": self.ancestral}[name]
        return edit(photographs, self.diffusion.steps.index(int(step)), rng)

    def sample(self, count: int, rng: np.random.Generator) -> Pixels:
        """Sample images from pure noise by DDIM, (count, S, S, 3)."""
        return _in_batches(_noise(count, self.size, rng), lambda x: self.diffusion.sample(self.unet, x))

    def sdedit(self, photographs: Pixels, start: int, rng: np.random.Generator) -> Pixels:
        """Noise pictures to the kept step `start`, then denoise them (SDEdit, Meng et al. 2022) by DDIM."""
        noised = self._noised(photographs, start, rng)
        return _in_batches(noised, lambda x: self.diffusion.sample(self.unet, x, start=start))

    def ancestral(self, photographs: Pixels, start: int, rng: np.random.Generator) -> Pixels:
        """As `sdedit`, but every step adds fresh noise as DDPM's sampler does (DDIM, equation 16, eta = 1)."""
        noised = self._noised(photographs, start, rng)
        return _in_batches(noised, lambda x: self._ancestral(x, start, rng))

    def reconstruct(self, photographs: Pixels) -> Pixels:
        """Invert pictures to noise by DDIM and denoise them again: the reconstruction that DIRE measures."""
        return _in_batches(to_unit(photographs), lambda x: self.diffusion.reconstruct(self.unet, x))

    def _noised(self, photographs: Pixels, start: int, rng: np.random.Generator) -> Tensor:
        noise = _noise(len(photographs), self.size, rng)
        return q_sample(to_unit(photographs), noise, self.diffusion.alpha_bars[start])

    def _ancestral(self, x: Tensor, start: int, rng: np.random.Generator) -> Tensor:
        targets = [1.0, *self.diffusion.alpha_bars]
        for index in reversed(range(start + 1)):
            x0, eps = self.diffusion.predict(self.unet, x, index)
            target, alpha_bar = targets[index], self.diffusion.alpha_bars[index]
            variance = (1 - target) / (1 - alpha_bar) * (1 - alpha_bar / target)
            mean = math.sqrt(target) * x0 + math.sqrt(1 - target - variance) * eps
            x = mean + math.sqrt(variance) * _noise(len(x), self.size, rng)
        return x


def _noise(count: int, size: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal((count, 3, size, size), dtype=np.float32))


@torch.no_grad()
def _in_batches(x: Tensor, make: Callable[[Tensor], Tensor]) -> Pixels:
    return np.concatenate([to_pixels(make(batch)) for batch in torch.split(x, BATCH)])
