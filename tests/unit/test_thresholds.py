"""Thresholds: what they promise of photographs nobody has seen, and when they are refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from worker.model.decision import sigmoid
from worker.training.intervals import upper_bound
from worker.training.metrics import balanced_accuracy_at, rank
from worker.training.thresholds import (
    CalibrationError,
    TooFewPhotographsError,
    lowest_inconclusive,
    measured_threshold,
    threshold_for_false_positives,
    youden_threshold,
)

REALS = 400
NONE_FAKE = np.zeros(REALS, dtype=np.bool_)
EACH_ITS_OWN = np.arange(REALS).astype(str)


def test_the_interval_and_the_bound_cover_the_truth_as_often_as_they_say():
    """Photographs' logits are normal, so the true rate of every threshold is known."""
    rng = np.random.default_rng(20261122)
    logits = rng.normal(size=(2000, REALS))
    covered, bounded = 0, 0
    for drawn in 1 / (1 + np.exp(-logits)):
        found = threshold_for_false_positives(drawn, NONE_FAKE, EACH_ITS_OWN, target=0.03)
        truth = stats.norm.sf(np.log(found.value / (1 - found.value)))
        covered += found.interval.low <= truth <= found.interval.high
        bounded += truth <= found.upper_bound
    assert 0.93 <= covered / 2000 <= 0.97
    assert 0.93 <= bounded / 2000 <= 0.97


def test_the_bound_keeps_the_target_and_one_more_photograph_above_would_not():
    probabilities = np.linspace(0, 1, REALS, endpoint=False)
    found = threshold_for_false_positives(probabilities, NONE_FAKE, EACH_ITS_OWN, target=0.03)
    assert np.count_nonzero(probabilities >= found.value) == found.false_positives
    assert found.upper_bound == upper_bound(found.false_positives, REALS) <= 0.03
    assert upper_bound(found.false_positives + 1, REALS) > 0.03
    above = stats.beta(found.false_positives + 1, REALS - found.false_positives)
    assert (found.interval.low, found.interval.high) == pytest.approx((above.ppf(0.025), above.ppf(0.975)), abs=1e-9)


def test_the_interval_holds_the_rate_that_was_counted():
    found = threshold_for_false_positives(np.linspace(0, 1, REALS, endpoint=False), NONE_FAKE, EACH_ITS_OWN, 0.008)
    assert (found.false_positives, found.interval.low) == (0, 0.0)
    assert found.interval.high == pytest.approx(stats.beta(1, REALS).ppf(0.975), abs=1e-9)


def test_equal_probabilities_never_break_the_target():
    probabilities = np.repeat([0.2, 0.9], [REALS - 30, 30])
    found = threshold_for_false_positives(probabilities, NONE_FAKE, EACH_ITS_OWN, target=0.03)
    assert found.false_positives == 0
    assert 0.9 < found.value < 0.91
    assert found.interval.low == 0


def test_crops_of_one_photograph_are_no_further_photographs():
    probabilities = np.linspace(0, 0.9, REALS)
    with pytest.raises(TooFewPhotographsError, match=r"at least 99 independent photographs; there are 80"):
        threshold_for_false_positives(probabilities, NONE_FAKE, np.repeat(np.arange(80), 5).astype(str), target=0.03)


def test_a_photograph_is_called_fake_if_any_of_its_crops_is():
    probabilities = np.tile([0.1, 0.8], REALS // 2)
    groups = np.repeat(np.arange(REALS // 2), 2).astype(str)
    found = measured_threshold(0.5, probabilities, NONE_FAKE, groups)
    assert (found.false_positives, found.photographs) == (REALS // 2, REALS // 2)


@pytest.mark.parametrize(("reals", "enough"), [(298, False), (299, True)])
def test_one_in_a_hundred_takes_299_photographs(reals: int, enough: bool):
    arguments = (np.linspace(0, 0.9, reals), NONE_FAKE[:reals], EACH_ITS_OWN[:reals])
    if enough:
        assert threshold_for_false_positives(*arguments, target=0.01).false_positives == 0
    else:
        with pytest.raises(TooFewPhotographsError, match=r"at least 299 .* there are 298\. Add photographs"):
            threshold_for_false_positives(*arguments, target=0.01)


def test_photographs_that_are_certainly_fake_leave_no_threshold():
    with pytest.raises(CalibrationError, match="have the probability 1"):
        threshold_for_false_positives(np.ones(REALS), NONE_FAKE, EACH_ITS_OWN, target=0.03)


def test_youden_takes_the_middle_of_the_widest_gap_that_separates_best():
    fake = np.array([True, True, False, False])
    assert youden_threshold(np.array([0.9, 0.8, 0.2, 0.1]), fake) == pytest.approx(0.5)
    scores, fake = np.array([0.9, 0.8, 0.7, 0.6, 0.1]), np.array([True, True, False, True, False])
    assert youden_threshold(scores, fake) == pytest.approx(0.75)


def test_no_threshold_is_better_than_youdens():
    rng = np.random.default_rng(4)
    scores, fake = rng.integers(0, 50, 300) / 50, rng.random(300) < 0.4
    ranking = rank(scores, fake)
    best = float(balanced_accuracy_at(ranking, youden_threshold(scores, fake)))
    assert best >= max(float(balanced_accuracy_at(ranking, threshold)) for threshold in np.linspace(0, 1, 500))


def test_below_the_band_lie_at_most_so_many_fakes():
    rng = np.random.default_rng(5)
    within = 0
    for _ in range(500):
        logits = rng.normal(size=REALS)
        probabilities = np.array([sigmoid(logit) for logit in logits])
        found = lowest_inconclusive(probabilities, ~NONE_FAKE, EACH_ITS_OWN, 0.05)
        within += stats.norm.cdf(np.log(found / (1 - found))) <= 0.05
    assert within / 500 >= 0.93


def test_a_photograph_has_a_missed_fake_if_any_of_its_fakes_is():
    probabilities = np.column_stack([np.linspace(0, 0.5, 200), np.full(200, 0.9)]).ravel()
    found = lowest_inconclusive(probabilities, ~NONE_FAKE, np.repeat(np.arange(200), 2).astype(str), 0.05)
    assert found < 0.05


def test_a_band_takes_enough_fakes():
    with pytest.raises(TooFewPhotographsError, match="takes fakes of at least 59 independent groups; there are 50"):
        lowest_inconclusive(np.linspace(0, 1, 50), ~NONE_FAKE[:50], EACH_ITS_OWN[:50], 0.05)
