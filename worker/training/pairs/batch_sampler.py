"""Chooses the pairs of each step's batch. The choice depends only on the step number, so any run can continue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.training.loop.checkpointing import step_rng
from worker.training.recipe import StudentPlan

_ORDER = 1  # the purpose number for drawing an epoch's order


class BatchSampler:
    """The batches of a plan. `labels` (N,): which pairs are fakes; both classes must be present."""

    def __init__(self, labels: NDArray[np.bool_], plan: StudentPlan) -> None:
        self.plan, self.count = plan, len(labels)
        self.steps_per_epoch = max(1, self.count // plan.batch_size)
        self._fakes, self._reals = np.flatnonzero(labels), np.flatnonzero(~labels)

    def draw(self, step: int) -> NDArray[np.int64]:
        """Return the numbers of a step's pairs for all processes, (batch size,)."""
        size = self.plan.batch_size
        if self.plan.sampling == "balanced":
            rng = step_rng(self.plan.seed, step)
            return np.concatenate([rng.choice(self._fakes, size // 2), rng.choice(self._reals, size // 2)])
        epoch, place = divmod(step, self.steps_per_epoch)
        order = step_rng(self.plan.seed, epoch, _ORDER).permutation(self.count)
        return np.resize(order, max(size, self.count))[place * size : (place + 1) * size]
