"""All figures of one set of images, each with its interval; and the figures that need several passes over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from worker.calibration.thresholds import youden_threshold
from worker.evaluation.file_baseline import fold_of
from worker.metrics.intervals import Separation, grouped_bootstrap, share_interval
from worker.metrics.ranking import (
    ESTIMABLE_REALS,
    ESTIMABLE_VERDICTS,
    PREVALENCES,
    Floats,
    Labels,
    Ranking,
    accuracy_at,
    area_under_precision,
    area_under_roc,
    balanced_accuracy_at,
    brier,
    calibration_error,
    false_positive_rate_at,
    missing_classes,
    precision_at_prevalence,
    rank,
    recall_at,
    recall_at_false_positive_rate,
)
from worker.metrics.scores import Names

_FOLDS = 5
_PERMUTATIONS = 200
_LIMIT = 0.01
_LEAK = 0.1


@dataclass(frozen=True)
class Resampling:
    """How intervals are computed: bootstrap draws of real images, seed and confidence."""

    resamples: int = 1000
    seed: int = 0
    confidence: float = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; None where it cannot be estimated.

    An interval without a figure means that too few images were counted for the figure to be meaningful.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Estimates:
    """What was counted, the threshold that holds, and the figures by name (`figure_names`)."""

    reals: int
    fakes: int
    real_groups: int
    groups: int
    threshold: float
    estimates: dict[str, Estimate]


@dataclass(frozen=True)
class HeldOutGenerator:
    """How thresholds that were chosen without a generator classify its fakes.

    The thresholds (one of each fold) are Youden's, of all other generators and of other real images. `estimates`:
    true-positive rate, false-positive rate and balanced accuracy.
    """

    fakes: int
    thresholds: list[float]
    estimates: dict[str, Estimate]


_Statistic = Callable[[Ranking, float], Floats]
_RATES: Mapping[str, _Statistic] = {
    "balanced_accuracy": balanced_accuracy_at,
    "true_positive_rate": recall_at,
    "false_positive_rate": false_positive_rate_at,
}
_FREE_OF_THRESHOLDS: Mapping[str, Callable[[Ranking], Floats]] = {
    "average_precision": area_under_precision,
    "roc_auc": area_under_roc,
    "tpr_at_1_percent_fpr": partial(recall_at_false_positive_rate, limit=_LIMIT),
    "brier": lambda ranking: brier(ranking.evenly),
    "calibration_error": lambda ranking: calibration_error(ranking.evenly),
}
_PRECISIONS = {f"precision_at_{100 * prevalence:g}_percent": prevalence for prevalence in PREVALENCES}
_STATISTICS: Mapping[str, _Statistic] = {
    "accuracy": accuracy_at,
    **_RATES,
    **{
        name: lambda ranking, _, statistic=statistic: statistic(ranking)  # type: ignore[misc]
        for name, statistic in _FREE_OF_THRESHOLDS.items()
    },
    **{name: partial(precision_at_prevalence, prevalence=prevalence) for name, prevalence in _PRECISIONS.items()},
}


def estimates_of(
    probabilities: Floats, fake: Labels, groups: Names, threshold: float, resampling: Resampling | None = None
) -> Estimates:
    """Return all figures of probabilities (N,) of being fake; what reaches the threshold is classified as FAKE."""
    estimates = _estimates(_STATISTICS, probabilities, fake, groups, threshold, resampling or Resampling())
    real_groups = len(np.unique(groups[~fake]))
    if real_groups < ESTIMABLE_REALS:
        estimates["tpr_at_1_percent_fpr"] = Estimate(None, None, None)
    if len(np.unique(groups[probabilities >= threshold])) < ESTIMABLE_VERDICTS:
        estimates |= {name: replace(estimates[name], value=None) for name in _PRECISIONS}
    return Estimates(
        reals=int((~fake).sum()),
        fakes=int(fake.sum()),
        real_groups=real_groups,
        groups=len(np.unique(groups)),
        threshold=threshold,
        estimates=estimates,
    )


def held_out_generators(
    probabilities: Floats, fake: Labels, generators: Names, groups: Names, resampling: Resampling
) -> dict[str, HeldOutGenerator]:
    """Return for each generator how a threshold performs that was chosen on all others; nothing if there is only one.

    A generator is missing from the answer if a fold without it lacks a class.
    """
    names = sorted(set(generators[fake].tolist()))
    fold = fold_of(groups, _FOLDS, resampling.seed)
    found = {}
    for name in names if len(names) > 1 else ():
        concerned = ~fake | (generators == name)
        thresholds = []
        classified = np.zeros(len(fake))
        for number in sorted(set(fold[concerned].tolist())):
            chooses = (fold != number) & (generators != name)
            if missing_classes(fake[chooses]):
                break
            thresholds.append(youden_threshold(probabilities[chooses], fake[chooses]))
            classified[fold == number] = probabilities[fold == number] >= thresholds[-1]
        else:
            rates = _estimates(_RATES, classified[concerned], fake[concerned], groups[concerned], 0.5, resampling)
            found[name] = HeldOutGenerator(int(fake[concerned].sum()), thresholds, rates)
    return found


def chance_average_precision(probabilities: Floats, fake: Labels, groups: Names, resampling: Resampling) -> Estimate:
    """Return the mean average precision under shuffled labels, and the range of most shuffles (`confidence`).

    It is what a detector that knows nothing reaches, about the share of fakes among the images; it says nothing of
    this detector. A group's fakes are shuffled as one, and so are its real images,
    because similar images have similar scores.
    """
    rng = np.random.default_rng(resampling.seed)
    _, first, cluster = np.unique(np.char.add(np.where(fake, "f", "r"), groups), return_index=True, return_inverse=True)
    shuffled = [
        float(area_under_precision(rank(probabilities, rng.permutation(fake[first])[cluster])))
        for _ in range(_PERMUTATIONS)
    ]
    low, high = np.quantile(shuffled, [(1 - resampling.confidence) / 2, (1 + resampling.confidence) / 2])
    return Estimate(float(np.mean(shuffled)), float(low), float(high))


def labels_leak(by_file: Estimate, chance: Estimate) -> bool:
    """Tell whether files give their labels away: whether what is known of them without a pixel ranks well above chance.

    Two conditions must hold. First, the distance from chance exceeds 1.5 times what shuffled labels reach, because a
    regression varies more than those; with few images, the upper half of what remains up to 1 is enough. Second, it
    exceeds a tenth of the way from chance to 1, because with many images even a trifle differs from chance.
    """
    if by_file.value is None or chance.value is None or chance.high is None:
        return False
    by_chance = min(chance.high + (chance.high - chance.value) / 2, (chance.high + 1) / 2)
    return by_file.value > max(by_chance, chance.value + _LEAK * (1 - chance.value))


def _estimates(
    statistics: Mapping[str, _Statistic],
    scores: Floats,
    fake: Labels,
    groups: Names,
    threshold: float,
    resampling: Resampling,
) -> dict[str, Estimate]:
    def all_of(weights: Floats) -> Floats:
        """All statistics of the draws (R, N), (M, R); NaN of draws without real images or without fakes."""
        found = np.full((len(statistics), len(weights)), np.nan)
        both = weights[:, fake].any(axis=1) & weights[:, ~fake].any(axis=1)
        ranking = rank(scores, fake, weights[both])
        found[:, both] = [statistic(ranking, threshold) for statistic in statistics.values()]
        return found

    intervals = grouped_bootstrap(
        all_of, groups, resamples=resampling.resamples, seed=resampling.seed, confidence=resampling.confidence
    )
    as_it_is = all_of(np.ones((1, len(scores))))[:, 0].tolist()
    found = {
        name: Estimate(_told(value), _told(np.minimum(interval.low, value)), _told(np.maximum(interval.high, value)))
        for name, value, interval in zip(statistics, as_it_is, intervals, strict=True)
    }
    wide = _widened(found, fake, groups, resampling.confidence)
    return found | wide | _of_the_separated(found, fake, groups, resampling.confidence) | _turned(found)


def _widened(found: Mapping[str, Estimate], fake: Labels, groups: Names, confidence: float) -> dict[str, Estimate]:
    """Return the shares that were counted, and what follows from them, not narrower than their exact bounds allow.

    If no real image is classified as FAKE, none is in any draw: the bootstrap alone would rule out a higher rate.
    """
    counted = {
        "accuracy": groups,
        "true_positive_rate": groups[fake],
        "false_positive_rate": groups[~fake],
        "tpr_at_1_percent_fpr": groups[fake],
    }
    wide = {}
    for name, of in counted.items():
        estimate = found.get(name)
        if estimate and estimate.value is not None and estimate.low is not None and estimate.high is not None:
            exact = share_interval(estimate.value, len(np.unique(of)), confidence)
            wide[name] = Estimate(estimate.value, min(estimate.low, exact.low), max(estimate.high, exact.high))
    if not {"true_positive_rate", "false_positive_rate"} <= wide.keys():
        return wide
    right, wrong = wide["true_positive_rate"], wide["false_positive_rate"]
    for name, prevalence in _PRECISIONS.items():
        estimate = found.get(name)
        if estimate and estimate.low is not None and estimate.high is not None:
            worst = _precision(right.low or 0.0, wrong.high or 0.0, prevalence)
            best = estimate.high if estimate.value else _precision(right.high or 0.0, wrong.low or 0.0, prevalence)
            wide[name] = replace(estimate, low=min(estimate.low, worst), high=max(estimate.high, best))
    return wide


def _precision(found: float, alarms: float, prevalence: float) -> float:
    right, wrong = prevalence * found, (1 - prevalence) * alarms
    return right / (right + wrong) if right + wrong else 0.0


def _of_the_separated(
    found: Mapping[str, Estimate], fake: Labels, groups: Names, confidence: float
) -> dict[str, Estimate]:
    """Return the figures at their best or worst value with the exact bound of as many groups: no draw shows another."""
    fakes, reals = len(np.unique(groups[fake])), len(np.unique(groups[~fake]))
    bounds = Separation.of(fakes, reals, confidence)
    least = {
        "roc_auc": bounds.least_area,
        "balanced_accuracy": bounds.least_balanced_accuracy,
        "average_precision": bounds.least_precision(float(fake.mean())),
    }
    told = {name: each for name, each in found.items() if name in least and each.low is not None}
    best = {name: replace(each, low=least[name]) for name, each in told.items() if np.isclose(each.value or 0, 1)}
    area = told.get("roc_auc")
    if area and area.value == 0 and min(fakes, reals) > 1:
        return best | {"roc_auc": replace(area, high=1 - bounds.least_area)}
    return best


def _turned(found: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Return the calibration error with the basic interval of the bootstrap, but for the figure itself, which is in it.

    Chance makes this figure larger in each draw than among the images drawn from, as it does there than in truth. So
    what the draws exceed it by is taken off it; their percentiles would often lie above the figure.
    """
    error = found.get("calibration_error")
    if error is None or error.value is None or error.low is None or error.high is None:
        return {}
    low, high = 2 * error.value - error.high, 2 * error.value - error.low
    return {"calibration_error": replace(error, low=max(low, 0.0), high=max(high, error.value))}


def _told(number: float) -> float | None:
    return None if np.isnan(number) else float(number)
