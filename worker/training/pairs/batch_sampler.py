"""Which pairs make up the batch of a step. It depends on the step's number alone, so any run can continue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.training.loop.checkpointing import step_rng
from worker.training.recipe import StudentPlan

_ORDER = 1  # the purpose for which an epoch's order is drawn


class BatchSampler:
    """The batches of a plan. `labels` (N,): which pairs are of fakes; both classes are there."""

    def __init__(self, labels: NDArray[np.bool_], plan: StudentPlan) -> None:
        self.plan, self.count = plan, len(labels)
        self.steps_per_epoch = max(1, self.count // plan.batch_size)
        self._fakes, self._reals = np.flatnonzero(labels), np.flatnonzero(~labels)

    def draw(self, step: int) -> NDArray[np.int64]:
        """Return the numbers of a step's pairs, (batch size,), over all processes."""
        size = self.plan.batch_size
        if self.plan.sampling == "balanced":
            rng = step_rng(self.plan.seed, step)
            return np.concatenate([rng.choice(self._fakes, size // 2), rng.choice(self._reals, size // 2)])
        epoch, place = divmod(step, self.steps_per_epoch)
        order = step_rng(self.plan.seed, epoch, _ORDER).permutation(self.count)
        return np.resize(order, max(size, self.count))[place * size : (place + 1) * size]
