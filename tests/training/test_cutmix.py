"""CutMix keeps image, noise and DIRE image together, and the class is what of it is to be seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worker.training.pairs.cutmix import Mix, draw_mix, mixed
from worker.training.pairs.store import Batch


def batch_of(values: list[float]) -> Batch:
    """Pairs whose parts are constant: image, noise and DIRE image are told apart by tens."""
    column = torch.tensor(values)[:, None, None, None].expand(-1, 3, 8, 8)
    return Batch(column, column + 10, column + 20, torch.tensor([value % 2 for value in values]))


def test_one_box_is_pasted_into_all_parts_and_its_area_into_the_class() -> None:
    batch, other = batch_of([0.0, 1.0]), batch_of([3.0, 2.0])
    result = mixed(batch, other, Mix(np.array([1, 0]), top=0.25, left=0.0, bottom=0.75, right=0.5))
    for part, tens in (("x", 0), ("eps", 10), ("dire", 20)):
        values = getattr(result, part)
        assert (values[0, :, 2:6, 0:4] == tens + 3).all()
        assert (values[0] == tens).sum() == 3 * (64 - 16)
        assert (values[1, :, 2:6, 0:4] == tens + 2).all()
    assert result.fake.tolist() == pytest.approx([16 / 64, 1 - 16 / 64])
    assert (batch.x[0] == 0).all()


def test_partners_are_others_or_all_the_first() -> None:
    rng = np.random.default_rng(0)
    assert sorted(draw_mix(8, "pairs", rng).partner) == list(range(8))
    assert draw_mix(8, "first", rng).partner.tolist() == [0] * 8


def test_boxes_lie_within_the_image_and_are_of_all_sizes() -> None:
    rng = np.random.default_rng(0)
    boxes = [draw_mix(2, "pairs", rng) for _ in range(400)]
    assert all(0 <= box.top < box.bottom <= 1 and 0 <= box.left < box.right <= 1 for box in boxes)
    areas = [(box.bottom - box.top) * (box.right - box.left) for box in boxes]
    assert min(areas) < 0.02
    assert max(areas) > 0.8
