"""The spaced diffusion: DistilDIRE's first-step noise, and DIRE's DDIM inversion and reconstruction.

The symbols are those of DDIM (Song et al. 2021): alpha_bar is the remaining share of signal, x0 the clean image, eps
the noise. All arithmetic is float32, whatever the precision of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.model.cards.schema import DiffusionConfig

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""The U-Net: (x (B, 3, S, S), original step index (B,)) -> (B, 3 or 6, S, S); channels 0 to 2 are eps."""


def linear_alpha_bars(steps: int) -> NDArray[np.float64]:
    """Return alpha_bar of every unspaced step, (steps,). For 1000 steps, betas rise from 0.0001 to 0.02 (DDPM)."""
    scale = 1000 / steps
    betas = np.linspace(scale * 0.0001, scale * 0.02, steps, dtype=np.float64)
    return (1.0 - betas).cumprod()


def q_sample(x0: Tensor, eps: Tensor, alpha_bar: float | Tensor) -> Tensor:
    """Return q(x_t | x_0) for the noise eps: sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps (DDPM, equation 4).

    Args:
        x0: images, (B, 3, S, S) float32.
        eps: noise, the same shape.
        alpha_bar: in [0, 1]; one for all images, or (B, 1, 1, 1).
    """
    return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * eps


class SpacedDiffusion:
    """A diffusion over the kept steps 0 ... N-1, each with its original index and alpha_bar."""

    def __init__(self, config: DiffusionConfig) -> None:
        self.clip_denoised = config.clip_denoised
        self.steps: Sequence[int] = config.kept_steps()
        self.alpha_bars: Sequence[float] = linear_alpha_bars(config.steps)[list(self.steps)].tolist()

    def first_step_eps(self, unet: Denoiser, x: Tensor) -> Tensor:
        """Return DistilDIRE's noise map: eps at t = 0, (B, 3, S, S) float32, for images x in [-1, 1]."""
        return self.predict(unet, x, 0)[1]

    def invert(self, unet: Denoiser, x: Tensor) -> Tensor:
        """Invert images to noise by deterministic DDIM: (B, 3, S, S) -> the latent, the same shape, float32."""
        # After the last step nothing of the image remains: alpha_bar = 0, as the published code defines it.
        for index, alpha_bar in enumerate([*self.alpha_bars[1:], 0.0]):
            x = self._move(unet, x, index, alpha_bar)
        return x

    def sample(self, unet: Denoiser, latent: Tensor, start: int | None = None) -> Tensor:
        """Sample images from noise by deterministic DDIM: (B, 3, S, S) -> the same shape, float32.

        `start` is the kept step that the latent is at; by default the last one.
        """
        targets = [1.0, *self.alpha_bars[:-1]][: None if start is None else start + 1]
        x = latent
        for index, alpha_bar in reversed(list(enumerate(targets))):
            x = self._move(unet, x, index, alpha_bar)
        return x

    def reconstruct(self, unet: Denoiser, x: Tensor) -> Tensor:
        """Return DIRE's reconstruction of x: inversion, then sampling. Each takes one network pass per kept step."""
        return self.sample(unet, self.invert(unet, x))

    def _move(self, unet: Denoiser, x: Tensor, index: int, alpha_bar: float) -> Tensor:
        """Make one DDIM step with eta = 0 (DDIM, equation 12), from step `index` to the given alpha_bar."""
        x0, eps = self.predict(unet, x, index)
        return q_sample(x0, eps, alpha_bar)

    def predict(self, unet: Denoiser, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Return (x0, eps) at a kept step, from x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps (DDPM, equation 4).

        Clipping x0 to [-1, 1] changes eps too. The published code computes the clipped eps as
        (x / sqrt(alpha_bar) - x0) / spread. At t = 0 the two terms are nearly equal and most digits cancel. Clipping
        eps itself gives the same value without the cancellation.
        """
        x = x.float()
        t = torch.full((x.shape[0],), self.steps[index], dtype=torch.long, device=x.device)
        eps = unet(x, t)[:, :3].float()
        centre = x / math.sqrt(self.alpha_bars[index])
        spread = math.sqrt(1 / self.alpha_bars[index] - 1)
        x0 = centre - spread * eps
        if self.clip_denoised:
            x0 = x0.clamp(-1, 1)
            eps = eps.clamp((centre - 1) / spread, (centre + 1) / spread)
        return x0, eps


def dire(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Return |x - reconstruction| as the published DIRE stores it: [0, 2] scaled to 0 ... 255, truncated to uint8."""
    return ((x - reconstruction).abs() * (255 / 2)).clamp(0, 255).to(torch.uint8)


def dire_unit(image: Tensor) -> Tensor:
    """Return a uint8 DIRE image as the input of networks: float32 in [-1, 1]."""
    return image.float() / 127.5 - 1
