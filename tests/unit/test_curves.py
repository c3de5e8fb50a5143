"""The report's curves are the numbers that they say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from worker.evaluation.curves import curves

FAKE = np.array([True, True, False, True, False, False])
SCORES = np.array([0.98, 0.8, 0.7, 0.6, 0.1, 0.02])


def test_the_roc_curve_goes_from_photographs_to_the_right_and_fakes_up():
    right, up, _ = reference.roc_curve(FAKE, SCORES, drop_intermediate=False)
    np.testing.assert_allclose(curves(SCORES, FAKE).roc, np.column_stack([right, up]), atol=1e-6)


def test_precision_stands_over_recall():
    precision, recall, _ = reference.precision_recall_curve(FAKE, SCORES)
    told = np.column_stack([recall, precision])[-2::-1]  # without the point that no threshold gives
    np.testing.assert_allclose(curves(SCORES, FAKE).precision_recall, told, atol=1e-6)


def test_bars_are_shares_of_their_class_between_0_and_1():
    found = curves(SCORES, FAKE).histogram
    assert found.reals == pytest.approx([1 / 3 if at in {0, 2, 17} else 0 for at in range(25)])
    assert found.fakes == pytest.approx([1 / 3 if at in {15, 20, 24} else 0 for at in range(25)])


def test_bins_state_their_probability_and_find_their_fakes():
    probabilities = np.repeat([0.1, 0.9], 50)
    fake = np.concatenate([np.arange(50) < 10, np.arange(50) < 40])
    low, high = curves(probabilities, fake).reliability
    assert [low.mean_probability, low.share_fake] == pytest.approx([0.1, 0.2])
    assert [high.mean_probability, high.share_fake] == pytest.approx([0.9, 0.8])
    assert low.mass + high.mass == pytest.approx(1)
