"""Figures against scikit-learn, on random scores with ties, and against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from worker.metrics.ranking import (
    Floats,
    Labels,
    accuracy_at,
    area_under_precision,
    area_under_roc,
    average_precision,
    balanced_accuracy_at,
    brier,
    calibration_error,
    false_positive_rate_at,
    precision_at_prevalence,
    rank,
    recall_at,
    recall_at_false_positive_rate,
    reliability,
    roc_auc,
)

FAKE = np.array([True, True, False, True, False])
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.1])


@st.composite
def scored(draw: st.DrawFn) -> tuple[Floats, Labels, Floats]:
    """Probabilities with as many ties as chance wants, both classes, and how often each image counts."""
    seed, count, levels = (
        draw(st.integers(0, 2**31)),
        draw(st.integers(2, 200)),
        draw(st.sampled_from([1, 3, 20, 10**6])),
    )
    rng = np.random.default_rng(seed)
    fake = rng.random(count) < draw(st.floats(0.1, 0.9))
    fake[:2] = [True, False]
    return rng.integers(0, levels + 1, count) / levels, fake, rng.integers(0, 4, count) + np.eye(count)[:2].sum(axis=0)


@settings(max_examples=150, deadline=None)
@given(scored())
def test_areas_and_scores_agree_with_scikit_learn(drawn: tuple[Floats, Labels, Floats]):
    scores, fake, _ = drawn
    assert average_precision(scores, fake) == pytest.approx(reference.average_precision_score(fake, scores), abs=1e-9)
    assert roc_auc(scores, fake) == pytest.approx(reference.roc_auc_score(fake, scores), abs=1e-9)
    assert float(brier(rank(scores, fake))) == pytest.approx(reference.brier_score_loss(fake, scores), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(scored(), st.floats(0, 1))
def test_what_a_threshold_gives_agrees_with_scikit_learn(drawn: tuple[Floats, Labels, Floats], threshold: float):
    scores, fake, _ = drawn
    called, ranking = scores >= threshold, rank(scores, fake)
    assert float(accuracy_at(ranking, threshold)) == pytest.approx(reference.accuracy_score(fake, called), abs=1e-9)
    expected = reference.balanced_accuracy_score(fake, called)
    assert float(balanced_accuracy_at(ranking, threshold)) == pytest.approx(expected, abs=1e-9)
    assert float(recall_at(ranking, threshold)) == pytest.approx(reference.recall_score(fake, called), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(scored())
def test_curves_agree_with_scikit_learn(drawn: tuple[Floats, Labels, Floats]):
    scores, fake, _ = drawn
    ranking = rank(scores, fake)
    false_positive_rate, recall, thresholds = reference.roc_curve(fake, scores, drop_intermediate=False)
    np.testing.assert_allclose(ranking.false_positive_rate, false_positive_rate[1:], atol=1e-9)
    np.testing.assert_allclose(ranking.recall, recall[1:], atol=1e-9)
    np.testing.assert_array_equal(ranking.scores, thresholds[1:])
    precision, recall, _ = reference.precision_recall_curve(fake, scores)
    np.testing.assert_allclose(ranking.precision, precision[-2::-1], atol=1e-9)
    np.testing.assert_allclose(ranking.recall, recall[-2::-1], atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(scored(), st.floats(0, 1))
def test_recall_at_a_limit_is_the_best_point_of_the_curve_within_it(drawn: tuple[Floats, Labels, Floats], limit: float):
    scores, fake, _ = drawn
    false_positive_rate, recall, _ = reference.roc_curve(fake, scores, drop_intermediate=False)
    found = float(recall_at_false_positive_rate(rank(scores, fake), limit))
    assert found == pytest.approx(recall[false_positive_rate <= limit].max(), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(scored())
def test_an_image_of_weight_three_counts_as_three_images(drawn: tuple[Floats, Labels, Floats]):
    scores, fake, weights = drawn
    times = weights.astype(int)
    weighted = rank(scores, fake, np.stack([weights, np.ones(len(scores))]))
    for statistic in (area_under_precision, area_under_roc, brier, calibration_error):
        repeated = statistic(rank(np.repeat(scores, times), np.repeat(fake, times)))
        np.testing.assert_allclose(statistic(weighted), [repeated, statistic(rank(scores, fake))], atol=1e-9)
    np.testing.assert_allclose(
        accuracy_at(weighted, 0.5)[0], np.average((scores >= 0.5) == fake, weights=weights), atol=1e-9
    )


def test_average_precision_of_a_known_ranking():
    assert average_precision(SCORES, FAKE) == pytest.approx((1 + 1 + 3 / 4) / 3)


def test_equal_scores_are_taken_together():
    assert average_precision(np.full(5, 0.5), FAKE) == pytest.approx(3 / 5)
    assert roc_auc(np.full(5, 0.5), FAKE) == pytest.approx(1 / 2)


def test_a_score_that_equals_the_threshold_is_called_fake():
    ranking = rank(SCORES, FAKE)
    assert float(false_positive_rate_at(ranking, 0.7)) == pytest.approx(1 / 2)
    assert float(false_positive_rate_at(ranking, np.nextafter(0.7, 1))) == 0
    assert float(recall_at(ranking, 0.95)) == 0


def test_precision_falls_with_the_prevalence():
    ranking = rank(SCORES, FAKE)  # from 0.65 on: two of three fakes and one of two photographs
    assert float(precision_at_prevalence(ranking, 0.65, 0.5)) == pytest.approx((2 / 3) / (2 / 3 + 1 / 2))
    assert float(precision_at_prevalence(ranking, 0.65, 0.001)) == pytest.approx(
        0.001 * 2 / 3 / (0.001 * 2 / 3 + 0.999 / 2)
    )
    assert np.isnan(precision_at_prevalence(ranking, 0.95, 0.01)), "nothing is called FAKE, so nothing can be said"


def test_bins_hold_equally_many_images():
    rng = np.random.default_rng(1)
    probabilities = rng.random(1000)
    fake = rng.random(1000) < probabilities
    found = reliability(rank(probabilities, fake), bins=8)
    np.testing.assert_allclose(found.mass, 1 / 8)
    tenths = np.array_split(np.argsort(probabilities), 8)
    np.testing.assert_allclose(found.mean_probability, [probabilities[tenth].mean() for tenth in tenths])
    np.testing.assert_allclose(found.share_fake, [fake[tenth].mean() for tenth in tenths])


def test_the_calibration_error_of_an_honest_detector_is_small_and_of_a_boaster_large():
    rng = np.random.default_rng(2)
    probabilities = rng.random(20_000)
    fake = rng.random(20_000) < probabilities
    assert calibration_error(rank(probabilities, fake)) < 0.02
    boasted = np.where(probabilities > 0.5, 0.99, 0.01)
    assert float(calibration_error(rank(boasted, fake))) == pytest.approx(0.24, abs=0.01)


def test_what_cannot_be_said_is_nan_and_no_warning():
    reals_alone = rank(np.array([0.2, 0.4]), np.array([False, False]))
    assert np.isnan(area_under_roc(reals_alone))
    assert np.isnan(area_under_precision(reals_alone))
    assert float(accuracy_at(reals_alone, 0.3)) == pytest.approx(0.5)


def test_what_equals_a_threshold_is_called_fake_by_every_figure():
    """A fake and a photograph lie on it: two of three fakes, one of two photographs."""
    fake, scores = np.array([True, True, True, False, False]), np.array([0.9, 0.5, 0.1, 0.5, 0.2])
    ranking, above = rank(scores, fake), float(np.nextafter(0.5, 1))
    assert float(recall_at(ranking, 0.5)) == pytest.approx(2 / 3)
    assert float(recall_at(ranking, above)) == pytest.approx(1 / 3)
    assert float(accuracy_at(ranking, 0.5)) == pytest.approx(3 / 5)
    assert float(accuracy_at(ranking, above)) == pytest.approx(3 / 5)
    assert float(balanced_accuracy_at(ranking, 0.5)) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert float(balanced_accuracy_at(ranking, above)) == pytest.approx((1 / 3 + 1) / 2)
    assert float(precision_at_prevalence(ranking, 0.5, 0.5)) == pytest.approx((2 / 3) / (2 / 3 + 1 / 2))
    assert float(precision_at_prevalence(ranking, above, 0.5)) == 1


@pytest.mark.parametrize(("alarms", "found"), [(2, 0.5), (3, 0.5), (4, 0.0)])
def test_a_false_positive_rate_that_equals_the_limit_is_within_it(alarms: int, found: float):
    """Of 300 photographs 1 % are three: a threshold that calls just so many FAKE counts, one more does not."""
    fake = np.arange(302) >= 300
    scores = np.where(np.arange(302) < alarms, 0.9, 0.1)
    scores[300:] = [0.9, 0.05]
    assert float(recall_at_false_positive_rate(rank(scores, fake), 0.01)) == found


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_scores_at_the_ends_have_a_bin(score: float):
    found = reliability(rank(np.full(4, score), np.array([True, False, True, False])))
    assert np.nansum(found.mass) == pytest.approx(1)
    assert np.nanmax(found.mean_probability) == score
