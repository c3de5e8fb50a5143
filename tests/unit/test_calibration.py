"""From scores to a policy."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from worker.calibration.fitting import (
    Calibration,
    Origin,
    _policy,
    fit_calibration,
    policy_by_youden,
    policy_for_target,
)
from worker.calibration.thresholds import CalibrationError, Threshold, TooFewPhotographsError
from worker.metrics.intervals import EstimateInterval
from worker.metrics.logistic import fit_logistic, predict_logistic
from worker.metrics.ranking import calibration_error, rank
from worker.metrics.scores import Scores
from worker.model.verdicts.verdict import decide, sigmoid

ORIGIN = Origin("strict", "TEST-MODEL", "0" * 64, "fp32", datetime(2026, 11, 22, tzinfo=UTC), "1" * 64)


def drawn(seed: int, groups: int = 800, each: int = 1) -> Scores:
    """Logits of a model that is three times too certain, and biased: the honest ones are logits / 3 + 1."""
    rng = np.random.default_rng(seed)
    fake = np.arange(groups) % 2 == 0
    honest = rng.normal(size=(groups, each)) * np.sqrt(2) + np.where(fake, 1.0, -1.0)[:, None]
    return Scores(
        logits=(3 * (honest - 1)).ravel(),
        fake=np.repeat(fake, each),
        generators=np.repeat(np.where(fake, "adm", ""), each),
        groups=np.repeat(np.arange(groups).astype(str), each),
    )


def test_the_regression_agrees_with_scikit_learn():
    rng = np.random.default_rng(6)
    features = np.column_stack([rng.normal(size=(300, 4)) * [1, 10, 0.1, 1], np.ones(300)])
    fake = rng.random(300) < 1 / (1 + np.exp(-features @ [1, -0.1, 5, 0, 0.5]))
    weights = rng.random(300)
    other = LogisticRegression(C=1 / 0.7, fit_intercept=False, tol=1e-12, max_iter=5000)
    other.fit(features, fake, sample_weight=weights)
    ours = fit_logistic(features, fake.astype(float), weights, ridge=0.7)
    np.testing.assert_allclose(ours, other.coef_[0], atol=1e-5)
    np.testing.assert_allclose(predict_logistic(features, ours), other.predict_proba(features)[:, 1], atol=1e-6)


def test_temperature_and_bias_are_found_again():
    found = fit_calibration(drawn(7, 40_000).logits, drawn(7, 40_000).fake)
    assert found.temperature == pytest.approx(3, rel=0.05)
    assert found.bias == pytest.approx(1, abs=0.05)


def test_calibrated_probabilities_are_honest_on_other_images():
    found, other = fit_calibration(drawn(8).logits, drawn(8).fake), drawn(9, 20_000)
    assert calibration_error(rank(other.probabilities, other.fake)) > 0.1
    assert calibration_error(rank(found.of(other), other.fake)) < 0.05


def test_ten_photographs_for_each_fake_do_not_move_the_bias():
    scores = drawn(10, 20_000)
    chosen = ~scores.fake | (np.arange(len(scores)) % 20 == 0)
    scarce = scores.only(chosen)
    assert scarce.fake.mean() < 0.1
    assert fit_calibration(scarce.logits, scarce.fake).bias == pytest.approx(1, abs=0.15)


def test_a_model_that_separates_the_classes_is_not_certain_of_everything():
    found = fit_calibration(np.array([-5.0, -4.0, 4.0, 5.0]), np.array([False, False, True, True]))
    assert found.temperature > 0.1
    assert sigmoid(5 / found.temperature + found.bias) < 0.99


def test_a_model_that_is_wrong_more_often_than_not_gives_no_policy():
    scores = drawn(11)
    with pytest.raises(CalibrationError, match="Check the labels"):
        policy_for_target(replace(scores, fake=~scores.fake), ORIGIN, target_fpr=0.05)


def test_a_policy_calls_as_many_photographs_fake_as_it_says():
    scores = drawn(12)
    policy = policy_for_target(scores, ORIGIN, target_fpr=0.05)
    calls = np.array([decide(each, policy.decision_rule).prediction for each in scores.logits])
    evidence = policy.evidence
    assert (calls[~scores.fake] == "FAKE").mean() == pytest.approx(evidence.measured_fpr)
    assert (calls[scores.fake] == "REAL").mean() == pytest.approx(evidence.missed_fakes)
    assert evidence.fpr_interval[0] <= evidence.measured_fpr <= evidence.fpr_upper_bound <= 0.05
    assert (evidence.reals, evidence.real_groups, evidence.fakes, evidence.fake_groups) == (400, 400, 400, 400)
    assert evidence.rule == "false_positive_rate"


def test_images_of_which_the_model_is_all_but_certain_stay_in_order():
    """Logits from 37 on have the probability 1 in float64: a threshold between them would be none."""
    scores = drawn(18)
    certain = replace(scores, logits=20 * (scores.logits + 10))
    policy = policy_for_target(certain, ORIGIN, target_fpr=0.05)
    calls = np.array([decide(each, policy.decision_rule).prediction for each in certain.logits])
    assert (certain.probabilities[~certain.fake] == 1).mean() > 0.5
    assert (calls[~scores.fake] == "FAKE").mean() == policy.evidence.measured_fpr <= 0.05
    assert (calls[scores.fake] == "REAL").mean() == policy_for_target(scores, ORIGIN, 0.05).evidence.missed_fakes


def test_what_is_counted_are_photographs():
    evidence = policy_for_target(drawn(13, 400, each=3), ORIGIN, target_fpr=0.05).evidence
    assert (evidence.reals, evidence.real_groups) == (600, 200)
    with pytest.raises(TooFewPhotographsError, match="there are 200"):
        policy_for_target(drawn(13, 400, each=3), ORIGIN, target_fpr=0.01)


def test_with_a_band_few_fakes_are_called_real():
    scores = drawn(14)
    without = policy_for_target(scores, ORIGIN, target_fpr=0.02)
    banded = policy_for_target(scores, ORIGIN, target_fpr=0.02, max_miss_rate=0.05)
    calls = np.array([decide(each, banded.decision_rule).prediction for each in scores.logits])
    assert banded.threshold == without.threshold
    assert banded.inconclusive_from is not None
    assert set(calls) == {"REAL", "FAKE", "INCONCLUSIVE"}
    assert (calls[scores.fake] == "REAL").mean() == pytest.approx(banded.evidence.missed_fakes)
    assert banded.evidence.missed_fakes <= 0.05 < without.evidence.missed_fakes


def test_a_band_that_nothing_needs_is_left_out():
    scores = drawn(15)
    easy = replace(scores, logits=scores.logits + 40 * scores.fake)
    assert policy_for_target(easy, ORIGIN, target_fpr=0.02, max_miss_rate=0.05).inconclusive_from is None


def test_youdens_rates_are_those_of_photographs_that_did_not_choose():
    covered, surplus = 0, []
    for seed in range(100):
        policy = policy_by_youden(drawn(seed, 200), ORIGIN, seed)
        truth = stats.norm.sf((np.log(policy.threshold / (1 - policy.threshold)) + 1) / np.sqrt(2))
        low, high = policy.evidence.fpr_interval
        covered += low <= truth <= high
        surplus.append(policy.evidence.measured_fpr - truth)
    assert covered >= 93
    assert abs(np.mean(surplus)) < 0.015, "measured where it was chosen, the rate would be 0.03 too low"


def test_a_class_that_is_not_there_is_named():
    scores = drawn(17)
    with pytest.raises(TooFewPhotographsError, match="no fake images"):
        policy_for_target(scores.only(~scores.fake), ORIGIN, target_fpr=0.05)


@pytest.mark.parametrize(("lowest", "banded"), [(0.5, False), (np.nextafter(0.5, 0), True)])
def test_a_band_that_would_begin_at_the_threshold_is_none(lowest: float, banded: bool):
    """All fakes are as probable: the first that may not be missed is the lowest of them."""
    scores = Scores(np.zeros(101), np.arange(101) > 0, np.full(101, "adm"), np.arange(101).astype(str))
    threshold = Threshold(0.5, 0, 1, EstimateInterval(0, 0.98), 0.95)
    policy = _policy(scores, np.full(101, lowest), ORIGIN, Calibration(1, 0), threshold, None, 0.05)
    assert (policy.inconclusive_from is not None) is banded
    assert policy.evidence.missed_fakes == 0
