"""Batches: balanced or shuffled, and the same whenever a step is asked for."""

from __future__ import annotations

import numpy as np

from worker.training.pairs.batch_sampler import BatchSampler
from worker.training.recipe import StudentPlan

LABELS = np.arange(62) < 3


def sampler(sampling: str, batch_size: int = 20) -> BatchSampler:
    plan = StudentPlan.model_validate({"epochs": 1, "batch_size": batch_size, "sampling": sampling, "seed": 3})
    return BatchSampler(LABELS, plan)


def test_a_balanced_batch_holds_as_many_photographs_as_fakes() -> None:
    drawn = sampler("balanced").draw(0)
    assert (len(drawn), LABELS[drawn].sum()) == (20, 10)


def test_shuffled_batches_hold_every_pair_once_an_epoch_in_another_order() -> None:
    shuffled = sampler("shuffled")
    assert shuffled.steps_per_epoch == 3
    epochs = [np.concatenate([shuffled.draw(step) for step in range(first, first + 3)]) for first in (0, 3)]
    assert [len(set(epoch)) for epoch in epochs] == [60, 60]  # two are left over
    assert list(epochs[0]) != list(epochs[1])


def test_a_batch_larger_than_the_data_repeats_it() -> None:
    few = sampler("shuffled", batch_size=100)
    assert few.steps_per_epoch == 1
    assert len(few.draw(0)) == 100
    assert set(few.draw(0)) == set(range(62))


def test_a_step_always_has_the_same_batch() -> None:
    for sampling in ("balanced", "shuffled"):
        assert np.array_equal(sampler(sampling).draw(7), sampler(sampling).draw(7))
        assert not np.array_equal(sampler(sampling).draw(7), sampler(sampling).draw(8))
