"""A request to train a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.datasets.dataset import Dataset, read_dataset
from worker.datasets.filters import with_permuted_labels, without_generators
from worker.training.recipe import Recipe


@dataclass(frozen=True)
class TrainingRequest:
    """What to train.

    `data`: as in `read_dataset`. `adm`: the name of the card whose ADM makes the noise maps; its student is not needed.
    `out`: the folder of the results. `pairs`: that of stage 1, which several trainings may share. `name`, `license`:
    of the new card. `without`: generators whose fakes are excluded. `permute_labels`: whether each split's labels are
    shuffled, by the training's seed: a control.
    """

    data: Path
    adm: str
    out: Path
    pairs: Path
    name: str
    license: str
    recipe: Recipe
    models_dir: Path | None = None
    device: str = "auto"
    without: Sequence[str] = ()
    permute_labels: bool = False

    def dataset(self) -> Dataset:
        """Read the data set, and keep what the request asks for.

        Raises:
            DatasetError: it is wrong, or has no fakes of a generator that is to be excluded.
        """
        dataset = without_generators(self.data, read_dataset(self.data), self.without)
        return with_permuted_labels(dataset, self.recipe.training.seed) if self.permute_labels else dataset
