"""All figures of a set of images, and those that need several passes over it."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import pytest
from scipy import stats

from worker.evaluation.curves import curves
from worker.evaluation.estimates import (
    Estimate,
    Resampling,
    chance_average_precision,
    estimates_of,
    held_out_generators,
    labels_leak,
)
from worker.metrics.ranking import ESTIMABLE_REALS, Floats, Labels, area_under_precision, rank
from worker.metrics.scores import Names

QUICK = Resampling(resamples=200)


@dataclass(frozen=True)
class World:
    probabilities: Floats
    fake: Labels
    generators: Names
    groups: Names


def world(reals: int = 120, fakes: int = 60, crops: int = 2) -> World:
    """Real images, and the fakes of an easy and a hard generator, each in several crops."""
    rng = np.random.default_rng(20)
    generators = np.repeat(["", "easy", "hard"], [reals, fakes, fakes])
    means = np.repeat([-1.0, 3.0, -0.5], [reals, fakes, fakes])
    logits = np.repeat(means + rng.normal(size=len(means)), crops) + 0.2 * rng.normal(size=crops * len(means))
    made = np.repeat(generators, crops)
    groups = np.repeat(np.arange(len(means)).astype(str), crops)
    return World(1 / (1 + np.exp(-logits)), made != "", made, groups)


def test_every_figure_has_its_interval():
    drawn = world()
    found = estimates_of(drawn.probabilities, drawn.fake, drawn.groups, 0.5, QUICK)
    assert (found.reals, found.fakes, found.real_groups, found.groups) == (240, 240, 120, 240)
    estimable = {name: each for name, each in found.estimates.items() if name != "tpr_at_1_percent_fpr"}
    assert set(estimable) == {
        "accuracy",
        "balanced_accuracy",
        "true_positive_rate",
        "false_positive_rate",
        "average_precision",
        "roc_auc",
        "brier",
        "calibration_error",
        "precision_at_0.1_percent",
        "precision_at_1_percent",
        "precision_at_10_percent",
    }
    for name, each in estimable.items():
        assert each.value is not None, name
        assert each.low is not None, name
        assert each.high is not None, name
        assert each.low < each.value + 0.03, name
        assert each.value - 0.03 < each.high, name
    value = found.estimates["average_precision"].value
    assert value == float(area_under_precision(rank(drawn.probabilities, drawn.fake)))


@pytest.mark.parametrize(("reals", "told"), [(ESTIMABLE_REALS - 1, False), (ESTIMABLE_REALS, True)])
def test_one_in_a_hundred_is_told_only_of_enough_photographs(reals: int, told: bool):
    drawn = world(reals=reals)
    found = estimates_of(drawn.probabilities, drawn.fake, drawn.groups, 0.5, QUICK).estimates["tpr_at_1_percent_fpr"]
    assert (found.value is not None) is told
    assert (found.low is not None) is told


def test_intervals_are_as_wide_as_few_photographs_make_them():
    drawn = world(crops=5)
    own = np.arange(len(drawn.fake)).astype(str)
    widths = []
    for groups in (drawn.groups, own):
        found = estimates_of(drawn.probabilities, drawn.fake, groups, 0.5, QUICK).estimates["roc_auc"]
        assert found.low is not None
        assert found.high is not None
        widths.append(found.high - found.low)
    assert widths[0] > 1.5 * widths[1]


@pytest.mark.parametrize("crops", [1, 3])
def test_what_no_photograph_showed_is_not_ruled_out(crops: int):
    """None of 20 real images is classified as FAKE: no draw shows another rate, but one of a sixth is possible."""
    fake = np.repeat(np.arange(40) < 20, crops)
    found = estimates_of(
        np.where(fake, 0.9, 0.1), fake, np.repeat(np.arange(40).astype(str), crops), 0.5, QUICK
    ).estimates
    exact = stats.binomtest(0, 20).proportion_ci(method="exact").high
    assert astuple(found["false_positive_rate"]) == pytest.approx((0, 0, exact))
    assert astuple(found["true_positive_rate"]) == pytest.approx((1, 1 - exact, 1))
    worst = 0.01 * (1 - exact) / (0.01 * (1 - exact) + 0.99 * exact)
    assert astuple(found["precision_at_1_percent"]) == pytest.approx((1, worst, 1))


@pytest.mark.parametrize("fakes", [0.05, 0.5])
def test_an_honest_detector_is_found_honest_however_rare_fakes_are(fakes: float):
    """Scores whose sigmoid is the probability of being fake where both classes are as many."""
    rng = np.random.default_rng(23)
    fake = rng.random(20_000) < fakes
    honest = 1 / (1 + np.exp(-np.where(fake, 1, -1) - np.sqrt(2) * rng.normal(size=len(fake))))
    found = estimates_of(honest, fake, np.arange(len(fake)).astype(str), 0.5, Resampling(resamples=2)).estimates
    assert (found["calibration_error"].value or 1) < 0.03
    assert found["brier"].value == pytest.approx((np.mean((1 - honest[fake]) ** 2) + np.mean(honest[~fake] ** 2)) / 2)
    reliability = curves(honest, fake).reliability
    assert len(reliability) == 10
    for each in reliability:
        assert each.share_fake == pytest.approx(each.mean_probability, abs=0.1)
        assert each.mass == pytest.approx(0.1, abs=0.01)


def test_no_interval_leaves_its_own_figure_out():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        probabilities = 1 / (1 + np.exp(-1.5 * rng.normal(size=100)))
        fake = rng.random(100) < probabilities
        found = estimates_of(probabilities, fake, np.arange(100).astype(str), 0.5, QUICK).estimates
        for name, each in found.items():
            if each.value is not None:
                assert (each.low or 0) <= each.value <= (each.high or 0), (seed, name)


def test_draws_that_lack_a_class_say_nothing():
    """One real image is above all fakes, so no average precision is 1; a third of the draws are without it."""
    fake = np.array([False, True, True, True])
    found = estimates_of(np.array([0.9, 0.8, 0.7, 0.6]), fake, np.array(list("abcd")), 0.5, QUICK).estimates
    assert (found["average_precision"].high or 1) < 1
    assert found["roc_auc"].high == 0


def test_where_nothing_is_called_fake_its_precision_is_not_told():
    drawn = world()
    found = estimates_of(drawn.probabilities, drawn.fake, drawn.groups, 1.1, QUICK).estimates
    assert found["precision_at_1_percent"].value is None
    assert found["true_positive_rate"].value == 0


def test_a_threshold_of_easy_fakes_misses_a_hard_generator():
    drawn = world()
    found = held_out_generators(drawn.probabilities, drawn.fake, drawn.generators, drawn.groups, QUICK)
    assert set(found) == {"easy", "hard"}
    missed, hit = (found[name].estimates["true_positive_rate"].value for name in ("hard", "easy"))
    assert missed is not None
    assert hit is not None
    assert missed < 0.3
    assert hit > 0.95
    assert min(found["hard"].thresholds) > max(found["easy"].thresholds), "each knows the other generator alone"
    assert (found["hard"].fakes, len(found["hard"].thresholds)) == (120, 5)


def test_a_threshold_is_measured_on_photographs_that_did_not_choose_it():
    """Scores that are noise: a threshold that is measured on the real images that chose it would look useful."""
    fake = np.arange(40) % 2 == 0
    generators = np.where(fake, np.where(np.arange(40) % 4 == 0, "one", "two"), "")
    gained = []
    for seed in range(40):
        scores = np.random.default_rng(seed).random(40)
        found = held_out_generators(scores, fake, generators, np.arange(40).astype(str), Resampling(resamples=2))
        gained += [each.estimates["balanced_accuracy"].value or 0 for each in found.values()]
    assert np.mean(gained) == pytest.approx(0.5, abs=0.02)


def test_of_one_generator_nothing_is_left_out():
    drawn = world()
    assert (
        held_out_generators(drawn.probabilities, drawn.fake, np.where(drawn.fake, "one", ""), drawn.groups, QUICK) == {}
    )


def test_chance_is_the_share_of_fakes_and_as_wide_as_few_photographs_make_it():
    drawn = world(reals=300, crops=5)
    own = np.arange(len(drawn.fake)).astype(str)
    widths = []
    for groups in (drawn.groups, own):
        found = chance_average_precision(drawn.probabilities, drawn.fake, groups, QUICK)
        assert found.value == pytest.approx(drawn.fake.mean(), abs=0.02)
        assert found.low is not None
        assert found.high is not None
        assert found.low < drawn.fake.mean() < found.high
        widths.append(found.high - found.low)
    assert widths[0] > 1.5 * widths[1]


def test_thinned_curves_keep_ends_and_area():
    rng = np.random.default_rng(22)
    fake = rng.random(5000) < 0.5
    probabilities = 1 / (1 + np.exp(-(rng.normal(size=5000) + fake)))
    found = curves(probabilities, fake)
    assert [found.roc[0], found.roc[-1]] == [(0, 0), (1, 1)]
    assert len(found.roc) <= 202
    x, y = np.array(found.roc).T
    assert np.trapezoid(y, x) == pytest.approx(0.76, abs=0.02)
    assert sum(found.histogram.reals) == pytest.approx(1)
    assert sum(each.mass for each in found.reliability) == pytest.approx(1)


@pytest.mark.parametrize(("called", "told"), [(9, False), (10, True)])
def test_no_precision_is_told_of_fewer_than_ten_verdicts(called: int, told: bool):
    """Of 600 fakes 1.5 % are found and no real image is classified as FAKE: 100 % would be a boast."""
    fake = np.arange(1000) >= 400
    scores = np.where(np.arange(1000) >= 1000 - called, 0.5, 0.1)  # what equals the threshold is classified as FAKE
    found = estimates_of(scores, fake, np.arange(1000).astype(str), 0.5, QUICK).estimates
    for name in ("precision_at_0.1_percent", "precision_at_1_percent", "precision_at_10_percent"):
        assert (found[name].value is not None) is told
        assert (found[name].low or 0) < 0.6
        assert found[name].high == 1


def test_crops_of_one_photograph_are_one_verdict():
    fake = np.arange(100) >= 50
    groups = np.where(fake, "one", np.arange(100).astype(str))
    found = estimates_of(np.where(fake, 0.9, 0.1), fake, groups, 0.5, QUICK).estimates
    assert found["precision_at_1_percent"].value is None


@pytest.mark.parametrize(("fakes", "reals"), [(12, 12), (40, 160)])
def test_a_perfect_ranking_of_few_images_is_no_certainty(fakes: int, reals: int):
    fake = np.arange(fakes + reals) < fakes
    found = estimates_of(fake.astype(float), fake, np.arange(len(fake)).astype(str), 0.5, QUICK).estimates
    missed, wronged = (1 - 0.025 ** (1 / count) for count in (fakes, reals))  # the exact bounds of none
    assert astuple(found["roc_auc"]) == pytest.approx((1, (1 - missed) * (1 - wronged), 1))
    assert astuple(found["balanced_accuracy"]) == pytest.approx((1, 1 - (missed + wronged) / 2, 1))
    share, recall = fakes / (fakes + reals), np.linspace(0, 1 - missed, 100_001)
    precision = share * recall / (share * recall + (1 - share) * wronged)
    assert astuple(found["average_precision"]) == pytest.approx((1, np.trapezoid(precision, recall), 1), abs=1e-4)


def test_the_bounds_of_a_perfect_ranking_hold():
    """Detectors that are not perfect, on so few images that they often seem so."""
    rng = np.random.default_rng(3)
    seemed = held = 0
    truth = stats.norm.cdf(4 / np.sqrt(2))
    for _ in range(400):
        fake = np.arange(24) < 12
        scores = stats.norm.cdf(rng.normal(size=24) + 4 * fake - 2)
        if scores[fake].min() > scores[~fake].max():
            seemed += 1
            found = estimates_of(scores, fake, np.arange(24).astype(str), 0.5, Resampling(resamples=2)).estimates[
                "roc_auc"
            ]
            held += (found.low or 1) <= truth <= (found.high or 0)
    assert seemed > 100
    assert held / seemed >= 0.95


def test_the_worst_figures_are_no_certainty_either():
    fake = np.arange(40) < 20
    found = estimates_of((~fake).astype(float), fake, np.arange(40).astype(str), 0.5, QUICK).estimates
    exact = 1 - 0.025 ** (1 / 20)
    assert astuple(found["roc_auc"]) == pytest.approx((0, 0, 1 - (1 - exact) ** 2))
    best = 0.01 * exact / (0.01 * exact + 0.99 * (1 - exact))
    assert astuple(found["precision_at_1_percent"]) == pytest.approx((0, 0, best))


def test_where_all_are_found_at_one_in_a_hundred_few_fakes_are_no_certainty():
    fake = np.arange(320) >= 300
    found = estimates_of(fake.astype(float), fake, np.arange(320).astype(str), 0.5, QUICK).estimates[
        "tpr_at_1_percent_fpr"
    ]
    assert astuple(found) == pytest.approx((1, 0.025 ** (1 / 20), 1))


@pytest.mark.parametrize(
    ("by_file", "chance", "leaks"),
    [
        ((0.97, 0.93, 0.99), (0.5, 0.45, 0.55), True),
        ((0.58, 0.53, 0.63), (0.5, 0.45, 0.55), True),  # half as far again as the range of chance is 0.575
        ((0.57, 0.53, 0.63), (0.5, 0.45, 0.55), False),
        ((0.54, 0.53, 0.55), (0.5, 0.49, 0.51), False),  # of many images, and of no weight
        ((0.551, 0.53, 0.57), (0.5, 0.49, 0.51), True),
        ((1.0, 0.1, 1.0), (0.62, 0.4, 0.95), True),  # of four images each
        ((0.97, 0.1, 1.0), (0.62, 0.4, 0.95), False),
        ((None, None, None), (0.5, 0.45, 0.55), False),
    ],
)
def test_files_leak_labels_only_well_above_chance(
    by_file: tuple[float | None, ...], chance: tuple[float | None, ...], leaks: bool
):
    assert labels_leak(Estimate(*by_file), Estimate(*chance)) is leaks


def test_what_equals_a_threshold_is_called_fake_also_where_a_generator_is_left_out():
    """Without the second generator the threshold lies halfway between 0 and 1, where all its fakes are."""
    fake, second = np.arange(60) >= 30, np.arange(60) >= 45
    scores = np.where(second, 0.5, fake.astype(float))
    generators = np.where(second, "second", np.where(fake, "first", ""))
    found = held_out_generators(scores, fake, generators, np.arange(60).astype(str), QUICK)["second"]
    assert set(found.thresholds) == {0.5}
    assert found.estimates["true_positive_rate"].value == 1


def test_an_interval_holds_its_figure_where_all_draws_are_better():
    """Each real image ranks above its fake: a draw that repeats a few is less mixed, its average precision higher."""
    fake = np.repeat([False, True], 40)
    scores = np.concatenate([np.linspace(0.6, 0.9, 40), np.linspace(0.1, 0.4, 40)])
    told = estimates_of(scores, fake, np.tile(np.arange(40).astype(str), 2), 0.5, QUICK).estimates["average_precision"]
    assert told.low == told.value
