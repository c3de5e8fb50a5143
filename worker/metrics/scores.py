"""A model's scores of labelled images, as arrays: the input of every metric and of every threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from worker.metrics.ranking import Floats, Labels
from worker.model.verdicts.verdict import sigmoids

Names = NDArray[np.str_]


@dataclass(frozen=True)
class Scores:
    """One entry for each image, all (N,).

    `logits`: the student's output; higher means more likely fake. `fake`: the true labels. `generators`: what generated
    the fake; empty for a real image. `groups`: the image's group; images of different groups are independent.
    """

    logits: Floats
    fake: Labels
    generators: Names
    groups: Names

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def probabilities(self) -> Floats:
        """The probability of being fake that a service reports without a policy, (N,)."""
        return sigmoids(self.logits)

    @property
    def real_groups(self) -> int:
        """The number of groups that have real images."""
        return len(np.unique(self.groups[~self.fake]))

    def only(self, chosen: Labels) -> Self:
        """Return the scores of the images for which `chosen` (N,) is true."""
        return type(self)(self.logits[chosen], self.fake[chosen], self.generators[chosen], self.groups[chosen])

    def by_generator(self) -> dict[str, Self]:
        """Return, for each generator, the scores of its fakes and of all real images."""
        names = sorted(set(self.generators[self.fake].tolist()))
        return {name: self.only(~self.fake | (self.generators == name)) for name in names}
