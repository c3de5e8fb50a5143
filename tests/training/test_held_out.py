"""The demonstration's figures against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from worker.training.held_out import figures


def test_figures_are_told_by_kind():
    fake, scores = np.array([True, True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.6, 0.1])
    kinds = np.array(["sample", "sdedit", "photograph", "sdedit", "photograph"])
    found = figures(scores, fake, kinds, threshold=0.65)
    assert found.fakes_right == {"sample": 1.0, "sdedit": 0.5}
    assert (found.photographs, found.fakes) == (2, 3)
    assert found.photographs_right == pytest.approx(0.5)
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
