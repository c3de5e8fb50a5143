"""Outputs of the published code, stored in tests/data/reference, and the weights that they were computed with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deploy.bench.seeded_weights import seeded_state
from worker.model.cards.schema import UnetConfig

FOLDER = Path(__file__).parents[1] / "data" / "reference"

Arrays = dict[str, NDArray[np.float32]]
Measure = Callable[[Tensor, NDArray[np.float32]], float]


class Reference:
    """Reads what is stored, by the name of a network."""

    def golden(self, name: str) -> Arrays:
        """Inputs and outputs, by their names."""
        with np.load(FOLDER / f"{name}.golden.npz") as arrays:
            return dict(arrays)

    def shapes(self, name: str) -> dict[str, list[int]]:
        """Shapes of the published parameters, in the order of the published names."""
        shapes: dict[str, list[int]] = json.loads((FOLDER / f"{name}.shapes.json").read_text())
        return shapes

    def state(self, name: str, seed: int) -> dict[str, Tensor]:
        """The weights of a golden."""
        return seeded_state(self.shapes(name), seed)

    def tiny_config(self) -> UnetConfig:
        """The architecture of the tiny ADM."""
        published = json.loads((FOLDER / "adm_tiny64.config.json").read_text())
        return UnetConfig.model_validate({key: published[key] for key in UnetConfig.model_fields if key in published})
