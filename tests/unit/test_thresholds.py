"""Thresholds: what they promise of photographs nobody has seen, and when they are refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from worker.calibration.thresholds import (
    CalibrationError,
    TooFewPhotographsError,
    allowed_false_positives,
    lowest_inconclusive,
    measured_threshold,
    threshold_for_false_positives,
    youden_threshold,
)
from worker.metrics.intervals import upper_bound
from worker.metrics.ranking import balanced_accuracy_at, rank
from worker.model.verdicts.verdict import sigmoid

SIMULATIONS = 2000
REALS = 400
NONE_FAKE = np.zeros(REALS, dtype=np.bool_)
EACH_ITS_OWN = np.arange(REALS).astype(str)


def coverage(reals: int, target: float) -> tuple[int, float, float]:
    """How many photographs may be called FAKE; how often the interval and the bound then hold the truth.

    Photographs' logits are normal, so the true rate of every threshold is known.
    """
    rng = np.random.default_rng(20261122)
    covered, bounded = 0, 0
    fake, groups = np.zeros(reals, dtype=np.bool_), np.arange(reals).astype(str)
    for drawn in 1 / (1 + np.exp(-rng.normal(size=(SIMULATIONS, reals)))):
        found = threshold_for_false_positives(drawn, fake, groups, target)
        truth = stats.norm.sf(np.log(found.value / (1 - found.value)))
        covered += found.interval.low <= truth <= found.interval.high
        bounded += truth <= found.upper_bound
    return allowed_false_positives(reals, target), covered / SIMULATIONS, bounded / SIMULATIONS


@pytest.mark.parametrize(("reals", "target", "allowed"), [(100, 0.05, 1), (400, 0.03, 6), (1000, 0.01, 4)])
def test_the_interval_and_the_bound_cover_the_truth_as_often_as_they_say(reals: int, target: float, allowed: int):
    found, covered, bounded = coverage(reals, target)
    assert found == allowed
    assert 0.93 <= covered <= 0.97
    assert 0.93 <= bounded <= 0.97


def test_where_no_photograph_may_be_called_fake_the_interval_is_wider_than_need_be():
    """It begins at 0, so that it holds the rate that was counted."""
    found, covered, bounded = coverage(299, 0.01)
    assert found == 0
    assert 0.965 <= covered <= 0.985
    assert 0.93 <= bounded <= 0.97


@pytest.mark.parametrize(("photographs", "rate"), [(25, 0.1), (50, 0.05), (400, 0.03)])
def test_the_interval_of_youdens_threshold_covers_the_truth_at_least_as_often(photographs: int, rate: float):
    """Each number of photographs that may be called FAKE, by its chance."""
    covered = 0.0
    for called, chance in enumerate(stats.binom(photographs, rate).pmf(np.arange(photographs + 1)).tolist()):
        probabilities = np.where(np.arange(photographs) < called, 0.9, 0.1)
        found = measured_threshold(0.5, probabilities, NONE_FAKE[:photographs], EACH_ITS_OWN[:photographs])
        covered += chance * (found.interval.low <= rate <= found.interval.high)
    assert 0.95 <= covered <= 0.995


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
    with pytest.raises(TooFewPhotographsError, match="needs fakes of at least 59 independent groups; there are 50"):
        lowest_inconclusive(np.linspace(0, 1, 50), ~NONE_FAKE[:50], EACH_ITS_OWN[:50], 0.05)


def test_another_confidence_is_kept_to_in_every_figure():
    probabilities = np.linspace(0, 1, REALS, endpoint=False)
    found = threshold_for_false_positives(probabilities, NONE_FAKE, EACH_ITS_OWN, target=0.03, confidence=0.99)
    assert (found.false_positives, found.photographs) == (4, REALS)
    assert stats.binom(REALS, 0.03).cdf(4) <= 0.01 < stats.binom(REALS, 0.03).cdf(5)
    assert found.upper_bound == pytest.approx(stats.beta(5, REALS - 4).ppf(0.99), abs=1e-9)
    above = stats.beta(5, REALS - 4)
    assert (found.interval.low, found.interval.high) == pytest.approx((above.ppf(0.005), above.ppf(0.995)), abs=1e-9)
    with pytest.raises(TooFewPhotographsError, match=r"confidence of 0\.99, needs at least 459 .*; there are 400\."):
        threshold_for_false_positives(probabilities, NONE_FAKE, EACH_ITS_OWN, target=0.01, confidence=0.99)


def test_ties_leave_fewer_above_and_the_interval_begins_lower():
    probabilities = np.repeat([0.2, 0.9, 0.95], [REALS - 33, 30, 3])  # six might be called FAKE
    found = threshold_for_false_positives(probabilities, NONE_FAKE, EACH_ITS_OWN, target=0.03)
    assert found.false_positives == 3
    assert found.interval.low == pytest.approx(stats.beta(3, REALS - 2).ppf(0.025), abs=1e-9)
    assert found.interval.high == pytest.approx(stats.beta(7, REALS - 6).ppf(0.975), abs=1e-9)


def test_a_threshold_of_one_is_one_and_what_reaches_it_counts():
    just_below = np.nextafter(1, 0)
    probabilities = np.repeat([0.2, just_below, 1.0], [REALS - 33, 30, 3])
    found = threshold_for_false_positives(probabilities, NONE_FAKE, EACH_ITS_OWN, target=0.03)
    assert (found.value, found.false_positives) == (1.0, 3)


def test_a_threshold_chosen_elsewhere_is_measured_exactly():
    probabilities = np.repeat([0.2, 0.7, 0.9], [REALS - 30, 20, 10])
    found = measured_threshold(0.7, probabilities, NONE_FAKE, EACH_ITS_OWN)
    assert (found.value, found.false_positives, found.photographs) == (0.7, 30, REALS)
    exact = stats.binomtest(30, REALS).proportion_ci(0.95, method="exact")
    assert (found.interval.low, found.interval.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert found.upper_bound == pytest.approx(stats.beta(31, REALS - 30).ppf(0.95), abs=1e-9)


def test_of_thresholds_that_separate_as_well_the_one_in_the_widest_gap_is_taken():
    fake = np.array([True, True, False, False])
    # Between 0.35 and 0.4 all fakes and half of the real ones are above; between 0.5 and 0.9, half of the fakes alone.
    assert youden_threshold(np.array([0.9, 0.4, 0.5, 0.35]), fake) == pytest.approx(0.7)


@pytest.mark.parametrize(("scores", "threshold"), [((0.3, 0.4), 0.7), ((0.6, 0.7), 0.3)])
def test_where_nothing_separates_all_or_none_are_called_fake(scores: tuple[float, float], threshold: float):
    assert youden_threshold(np.array(scores), np.array([True, False])) == pytest.approx(threshold)


def test_a_photograph_that_equals_a_threshold_is_called_fake():
    probabilities = np.repeat([0.2, 0.5, 0.8], [70, 20, 10])
    for value, counted in ((0.5, 30), (np.nextafter(0.5, 1), 10), (0.2, 100), (0.8, 10), (np.nextafter(0.8, 1), 0)):
        found = measured_threshold(float(value), probabilities, NONE_FAKE[:100], EACH_ITS_OWN[:100])
        assert found.false_positives == counted


def test_the_threshold_lies_just_above_the_photograph_that_must_not_reach_it():
    """Of 400 photographs 6 may be called FAKE for 3 %: the seventh may not, however near the sixth is."""
    probabilities = np.full(REALS, 0.1)
    probabilities[:6] = np.nextafter(0.5, 1)
    probabilities[6] = 0.5
    found = threshold_for_false_positives(probabilities, NONE_FAKE, EACH_ITS_OWN, target=0.03)
    assert (found.value, found.false_positives) == (np.nextafter(0.5, 1), 6)


@pytest.mark.parametrize("highest", [1.0, np.nextafter(1.0, 0)])
def test_a_threshold_of_1_is_one(highest: float):
    """One photograph too many below 1 leaves 1 itself; one at 1 leaves none."""
    probabilities = np.where(np.arange(REALS) < 7, highest, 0.1)
    if highest < 1:
        assert threshold_for_false_positives(probabilities, NONE_FAKE, EACH_ITS_OWN, target=0.03).value == 1
    else:
        with pytest.raises(CalibrationError, match="More than 6 of the 400"):
            threshold_for_false_positives(probabilities, NONE_FAKE, EACH_ITS_OWN, target=0.03)


def test_the_band_begins_at_the_fake_that_is_one_too_many():
    """Of 400 fakes 13 may lie below for 5 %: the fourteenth lowest is the band's first, and is INCONCLUSIVE."""
    probabilities = np.linspace(0, 0.9, REALS)
    found = lowest_inconclusive(probabilities, ~NONE_FAKE, EACH_ITS_OWN, 0.05)
    missed = int(np.count_nonzero(probabilities < found))
    assert upper_bound(missed, REALS) <= 0.05 < upper_bound(missed + 1, REALS)
    assert found == probabilities[missed]


def test_a_limit_is_kept_where_the_bound_equals_it():
    """The upper bound of 3 of 100 as the limit: three are allowed, not two."""
    limit = upper_bound(3, 100)
    assert allowed_false_positives(100, limit + 1e-12) == 3
    assert allowed_false_positives(100, limit - 1e-9) == 2
