"""What the student learns from: pictures after their file's history, with the ADM's first-step noise of just that.

The noise is computed after the history. (Keeping the noise of the clean picture would train on pairs that never occur.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.model.diffusion import Denoiser, SpacedDiffusion
from worker.training.fakes import BATCH, PHOTOGRAPH, Pictures
from worker.training.file_history import seen_by_service
from worker.training.pairs import Batch


@dataclass(frozen=True)
class Examples:
    """`x` and `eps` (N, 3, S, S) float16, `fake` (N,) bool, and `kinds` (N,), as in `Pictures`. A `PairSource`.

    float16 resolves 8-bit colours, and eps a hundred times finer than bfloat16 inference does.
    """

    x: Tensor
    eps: Tensor
    fake: Tensor
    kinds: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.fake)

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Whether each example is a fake, (N,)."""
        found: NDArray[np.bool_] = self.fake.numpy()
        return found

    def load(self, index: NDArray[np.int64]) -> Batch:
        """Return some examples."""
        return Batch(self.x[index].float(), self.eps[index].float(), None, self.fake[index].float())

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        np.savez(path, x=self.x.numpy(), eps=self.eps.numpy(), fake=self.fake.numpy(), kinds=self.kinds)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            x, eps, fake = (torch.from_numpy(arrays[name]) for name in ("x", "eps", "fake"))
            return cls(x, eps, fake, arrays["kinds"])


def make_examples(
    pictures: Pictures, unets: Sequence[Denoiser], diffusion: SpacedDiffusion, copies: int, seed: int
) -> Examples:
    """Give every picture `copies` histories, and their noise by the `unets` in turn.

    The networks are one ADM in the precisions in which services run it: what is seen in one must hold in another.
    """
    rng = np.random.default_rng(seed)
    order = np.tile(np.arange(len(pictures.kinds)), copies)
    rng.shuffle(order)  # so that a unet does not always get the same kind
    x = torch.from_numpy(np.stack([seen_by_service(pictures.pixels[index], rng) for index in order]))
    eps = [_noise_map(unets[turn % len(unets)], diffusion, batch) for turn, batch in enumerate(torch.split(x, BATCH))]
    kinds = pictures.kinds[order]
    return Examples(x.half(), torch.cat(eps).half(), torch.from_numpy(kinds != PHOTOGRAPH), kinds)


@torch.no_grad()
def _noise_map(unet: Denoiser, diffusion: SpacedDiffusion, x: Tensor) -> Tensor:
    return diffusion.first_step_eps(unet, x)
