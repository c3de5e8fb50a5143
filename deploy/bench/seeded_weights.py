"""Weights from a seed: for parity with stored outputs and for measuring speed, without large files.

One stream of NumPy's `RandomState`, which is frozen across releases, fills the tensors in the order of their names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def seeded_state(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
    """Return {name: tensor}, float32, for {name: shape}; `num_batches_tracked` is an int64 zero.

    Matrices and kernels keep the variance of their input, gains are near 1, biases near 0: activations stay of order 1.
    """
    stream = np.random.RandomState(seed)
    return {name: _tensor(stream, name, tuple(shape)) for name, shape in shapes.items()}


def _tensor(stream: np.random.RandomState, name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    normal = torch.from_numpy(stream.standard_normal(shape).astype(np.float32))
    if name.endswith("running_var"):
        return 1 + 0.1 * normal.abs()
    if name.endswith(("bias", "running_mean")):
        return 0.02 * normal
    if len(shape) == 1:
        return 1 + 0.1 * normal
    return normal / math.sqrt(math.prod(shape[1:]))
