"""Figures against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from worker.training.evaluate import average_precision, balanced_accuracy, choose_threshold, figures

FAKE = np.array([True, True, False, True, False])
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.1])


def test_average_precision_of_a_known_ranking() -> None:
    assert average_precision(SCORES, FAKE) == pytest.approx((1 + 1 + 3 / 4) / 3)


def test_average_precision_takes_equal_scores_together() -> None:
    assert average_precision(np.full(5, 0.5), FAKE) == pytest.approx(3 / 5)


@pytest.mark.parametrize(("threshold", "expected"), [(0.05, 0.5), (0.65, (2 / 3 + 1 / 2) / 2), (0.75, (2 / 3 + 1) / 2)])
def test_balanced_accuracy(threshold: float, expected: float) -> None:
    assert balanced_accuracy(SCORES, FAKE, threshold) == pytest.approx(expected)


def test_the_threshold_lies_in_the_middle_of_the_widest_gap_that_separates_best() -> None:
    scores = np.array([0.9, 0.8, 0.2, 0.1])
    assert choose_threshold(scores, np.array([True, True, False, False])) == pytest.approx(0.5)
    assert choose_threshold(SCORES, FAKE) == pytest.approx(0.75)


def test_figures_are_told_by_kind() -> None:
    kinds = np.array(["sample", "sdedit", "photograph", "sdedit", "photograph"])
    found = figures(SCORES, FAKE, kinds, threshold=0.65)
    assert found.fakes_right == {"sample": 1.0, "sdedit": 0.5}
    assert (found.photographs, found.fakes) == (2, 3)
    assert found.photographs_right == pytest.approx(0.5)
    assert found.accuracy == pytest.approx(3 / 5)
