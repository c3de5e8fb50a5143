"""Small things to train on: smooth pictures, pairs in memory, and the smallest network that has all parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from worker.model.cards.schema import UnetConfig
from worker.training.demonstration.adm_trainer import AdmPlan
from worker.training.demonstration.photographs import Pixels
from worker.training.pairs.store import Batch

TINY_UNET = UnetConfig(
    num_channels=32, num_res_blocks=1, channel_mult=(1, 1), attention_resolutions=(8,), num_heads=1, learn_sigma=False
)
TINY_SIZE = 16
TINY_PLAN = AdmPlan(
    steps=6, decay_steps=6, batch_size=4, learning_rate=1e-3, warmup=2, seed=7, bfloat16=False, compiled=False
)


def smooth_picture(seed: int, width: int = 60, height: int = 48) -> Pixels:
    """A picture of a few large blobs of colour."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class PairsInMemory:
    """`x` and `eps` (N, 3, S, S), `fake` (N,) bool. A `PairSource`."""

    x: Tensor
    eps: Tensor
    fake: Tensor

    @property
    def labels(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.fake.numpy()
        return found

    def load(self, index: NDArray[np.int64]) -> Batch:
        return Batch(self.x[index].float(), self.eps[index].float(), None, self.fake[index].float())
