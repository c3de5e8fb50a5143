"""What a model said of labelled images, as arrays: the input of every figure and of every threshold."""

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

    `logits`: the student's, of "fake"; `fake`: the truth; `generators`: what made a fake, empty for a photograph;
    `groups`: the source photograph, the unit that is independent.
    """

    logits: Floats
    fake: Labels
    generators: Names
    groups: Names

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def probabilities(self) -> Floats:
        """The probability of being fake that a service states without a policy, (N,)."""
        return sigmoids(self.logits)

    @property
    def real_groups(self) -> int:
        """How many independent photographs there are."""
        return len(np.unique(self.groups[~self.fake]))

    def only(self, chosen: Labels) -> Self:
        """Return the images of which `chosen` (N,) is true."""
        return type(self)(self.logits[chosen], self.fake[chosen], self.generators[chosen], self.groups[chosen])

    def by_generator(self) -> dict[str, Self]:
        """Return all photographs with the fakes of one generator, for each."""
        names = sorted(set(self.generators[self.fake].tolist()))
        return {name: self.only(~self.fake | (self.generators == name)) for name in names}
