"""Exact bounds against another implementation; the bootstrap against what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from worker.metrics.intervals import (
    clopper_pearson,
    fewest_trials,
    grouped_bootstrap,
    lower_bound,
    mean_interval,
    most_successes,
    share_interval,
    student_quantile,
    upper_bound,
)
from worker.metrics.ranking import Floats, area_under_roc, rank


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 1), (1, 1), (0, 299), (3, 300), (150, 300), (299, 300), (300, 300), (900, 100_000)]
)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_exact_bounds_agree_with_the_beta_distribution(successes: int, trials: int, confidence: float):
    upper = stats.beta.ppf(confidence, successes + 1, trials - successes) if successes < trials else 1.0
    lower = stats.beta.ppf(1 - confidence, successes, trials - successes + 1) if successes else 0.0
    assert upper_bound(successes, trials, confidence) == pytest.approx(upper, abs=1e-9)
    assert lower_bound(successes, trials, confidence) == pytest.approx(lower, abs=1e-9)


def test_the_two_sided_interval_has_half_of_the_doubt_on_each_side():
    found = clopper_pearson(5, 80)
    expected = stats.binomtest(5, 80).proportion_ci(confidence_level=0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_share_between_two_counts_has_the_bounds_of_both():
    found = share_interval(0.125, 20)  # two and a half of 20: crops of a photograph may be called otherwise
    assert (found.low, found.high) == (clopper_pearson(2, 20).low, clopper_pearson(3, 20).high)
    assert share_interval(0.1 * 3, 10) == clopper_pearson(3, 10)


@pytest.mark.parametrize("limit", [0.1, 0.01, 0.001])
def test_so_many_reals_are_needed_and_not_one_less(limit: float):
    needed = fewest_trials(limit)
    assert most_successes(needed, limit) == 0
    assert most_successes(needed - 1, limit) is None


@pytest.mark.parametrize("trials", [300, 1000, 5000])
def test_the_most_successes_are_within_the_limit_and_one_more_is_not(trials: int):
    most = most_successes(trials, 0.01)
    assert most is not None
    assert upper_bound(most, trials) <= 0.01 < upper_bound(most + 1, trials)


def world(rng: np.random.Generator, groups: int, each: int) -> tuple[Floats, np.ndarray, np.ndarray]:
    """Scores of `groups` photographs and their fakes, `each` alike: (scores, fake, group)."""
    fake = np.repeat(np.arange(groups) % 2 == 0, each)
    scores = np.repeat(rng.normal(size=groups), each) + 0.1 * rng.normal(size=groups * each) + fake
    return scores, fake, np.repeat(np.arange(groups), each).astype(str)


def auc_interval(
    world: tuple[Floats, np.ndarray, np.ndarray], groups: np.ndarray, seed: int = 0
) -> tuple[float, float]:
    scores, fake, _ = world

    def auc(weights: Floats) -> Floats:
        return area_under_roc(rank(scores, fake, weights))[None]

    [found] = grouped_bootstrap(auc, groups, resamples=400, seed=seed)
    return found.low, found.high


def test_the_same_seed_gives_the_same_interval():
    drawn = world(np.random.default_rng(3), 40, 5)
    assert auc_interval(drawn, drawn[2]) == auc_interval(drawn, drawn[2])
    assert auc_interval(drawn, drawn[2]) != auc_interval(drawn, drawn[2], seed=1)


def test_the_bootstrap_by_photograph_covers_the_truth_and_one_by_image_does_not():
    truth = stats.norm.cdf(1 / np.sqrt(2 * 1.01))
    covered = {"photographs": 0, "images": 0}
    for seed in range(100):
        drawn = world(np.random.default_rng(seed), 60, 5)
        for unit, groups in (("photographs", drawn[2]), ("images", np.arange(300).astype(str))):
            low, high = auc_interval(drawn, groups)
            covered[unit] += low <= truth <= high
    assert covered["photographs"] >= 88
    assert covered["images"] <= 70


def test_draws_without_a_class_are_left_out():
    low, high = auc_interval((np.array([0.1, 0.9]), np.array([False, True]), np.array([])), np.array(["a", "b"]))
    assert (low, high) == (1.0, 1.0)


def test_of_one_photograph_nothing_is_said():
    low, high = auc_interval((np.array([0.1, 0.9]), np.array([False, True]), np.array([])), np.array(["a", "a"]))
    assert np.isnan(low)
    assert np.isnan(high)


def test_the_interval_of_a_mean_is_students():
    """By hand: .90, .92 and .97 have the mean .93 and the deviation √.0013; 4.302653 · √(.0013 / 3) = .089567."""
    found = mean_interval(np.array([0.90, 0.92, 0.97]))
    assert (found.low, found.high) == pytest.approx((0.93 - 0.089567, 0.93 + 0.089567), abs=1e-6)


def test_of_the_mean_of_one_value_nothing_is_said():
    assert np.isnan([mean_interval(np.array([0.9])).low, mean_interval(np.array([0.9])).high]).all()


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 30])
@pytest.mark.parametrize("probability", [0.6, 0.95, 0.975, 0.995])
def test_students_quantiles_agree_with_another_implementation(probability: float, degrees: int):
    assert student_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9)
