"""CutMix (Yun et al. 2019) on image, noise map and DIRE image together. No other augmentation follows the noise map.

A box of another pair replaces the same box in all three, so every pixel keeps the noise that was computed for it. The
label becomes the share of fake pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worker.training.pairs.store import Batch


@dataclass(frozen=True)
class Mix:
    """How one batch is mixed: `partner` (B,) holds the index, in the batch, of the pair that each pair is mixed with.

    The box spans rows `top` to `bottom` and columns `left` to `right`, as shares of the side.
    """

    partner: NDArray[np.int64]
    top: float
    left: float
    bottom: float
    right: float


def draw_mix(count: int, partners: Literal["pairs", "first"], rng: np.random.Generator) -> Mix:
    """Draw partners and a box. Its area is uniformly distributed before the image's border clips it."""
    half = math.sqrt(1 - rng.random()) / 2
    middle_row, middle_column = rng.random(2)
    partner = rng.permutation(count) if partners == "pairs" else np.zeros(count, np.int64)
    top, left = max(0.0, middle_row - half), max(0.0, middle_column - half)
    return Mix(partner, top, left, min(1.0, middle_row + half), min(1.0, middle_column + half))


def mixed(batch: Batch, other: Batch, mix: Mix) -> Batch:
    """Paste the box of each pair of `other` into its pair of `batch`; `fake` becomes the mean over the pixels."""
    side = batch.x.shape[-1]
    top, left, bottom, right = (round(edge * side) for edge in (mix.top, mix.left, mix.bottom, mix.right))

    def pasted(onto: Tensor, from_: Tensor) -> Tensor:
        result = onto.clone()
        result[:, :, top:bottom, left:right] = from_[:, :, top:bottom, left:right]
        return result

    share = (bottom - top) * (right - left) / side**2
    dire = None if batch.dire is None or other.dire is None else pasted(batch.dire, other.dire)
    fake = (1 - share) * batch.fake + share * other.fake
    return Batch(pasted(batch.x, other.x), pasted(batch.eps, other.eps), dire, fake)
