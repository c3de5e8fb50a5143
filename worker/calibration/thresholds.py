"""Thresholds: which probability an image must reach to be classified as FAKE, and how certain the resulting rates are.

A photograph counts as FAKE if any of its images is classified so. So every count is of independent photographs, and the
exact binomial bounds hold; the rate among images is at most as large where every photograph has equally many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.errors import DistildireError
from worker.metrics.intervals import (
    EstimateInterval,
    clopper_pearson,
    fewest_trials,
    lower_bound,
    most_successes,
    upper_bound,
)
from worker.metrics.ranking import Floats, Labels, rank
from worker.metrics.scores import Names

CONFIDENCE = 0.95


class CalibrationError(DistildireError):
    """These images cannot give a policy."""


class TooFewPhotographsError(CalibrationError):
    """There are too few independent photographs for what was asked. Add photographs, or ask for less."""


@dataclass(frozen=True)
class Threshold:
    """A threshold, and the share of photographs that it calls FAKE: counted, with an exact interval and bound."""

    value: float
    false_positives: int
    photographs: int
    interval: EstimateInterval
    upper_bound: float


def allowed_false_positives(photographs: int, target: float, confidence: float = CONFIDENCE) -> int:
    """Return how many of so many photographs a threshold may call FAKE for its bound to be at most `target`.

    Raises:
        TooFewPhotographsError: even none would have a higher bound.
    """
    allowed = most_successes(photographs, target, confidence)
    if allowed is None:
        raise TooFewPhotographsError(
            f"A false-positive rate of at most {target:g}, with a confidence of {confidence:g}, takes at least "
            f"{fewest_trials(target, confidence)} independent photographs; there are {photographs}. Add photographs "
            "of other groups, or ask for a higher rate."
        )
    return allowed


def allowed_misses(groups: int, limit: float) -> int:
    """Return how many of so many groups of fakes may be missed for the share's bound to be at most `limit`.

    Raises:
        TooFewPhotographsError: even none would have a higher bound.
    """
    allowed = most_successes(groups, limit, CONFIDENCE)
    if allowed is None:
        raise TooFewPhotographsError(
            f"A band below which at most {limit:g} of the fakes lie takes fakes of at least "
            f"{fewest_trials(limit, CONFIDENCE)} independent groups; there are {groups}. Add fakes, or ask for a "
            "higher rate."
        )
    return allowed


def threshold_for_false_positives(
    probabilities: Floats, fake: Labels, groups: Names, target: float, confidence: float = CONFIDENCE
) -> Threshold:
    """Return the lowest threshold whose false-positive rate has an exact upper bound of at most `target`.

    It lies just above the (k + 1)-th highest photograph, k being the most that n photographs allow. So the share of all
    photographs above it follows Beta(k + 1, n - k), whatever the scores' distribution: bound and interval hold although
    the threshold was chosen on the same photographs.

    Raises:
        TooFewPhotographsError: even a threshold that calls none of them FAKE has a higher bound.
        CalibrationError: more than k photographs have the probability 1.
    """
    highest = np.sort(_of_groups(np.maximum, probabilities[~fake], groups[~fake]))[::-1]
    allowed = allowed_false_positives(len(highest), target, confidence)
    value = float(np.nextafter(highest[allowed], 2))
    if value > 1:
        raise CalibrationError(
            f"More than {allowed} of the {len(highest)} photographs have the probability 1 of being fake, so no "
            "threshold keeps the rate. Ask for a higher rate."
        )
    counted = int(np.count_nonzero(highest >= value))
    return Threshold(
        value,
        counted,
        len(highest),
        _interval(counted, allowed, len(highest), confidence),
        upper_bound(allowed, len(highest), confidence),
    )


def youden_threshold(scores: Floats, fake: Labels) -> float:
    """Return the threshold with the greatest Youden's J, which is that with the best balanced accuracy.

    Of several equally good, the middle of the widest gap. Candidates lie halfway between neighbouring scores, which are
    probabilities, so that none of them decides by its last digit.
    """
    ranking = rank(scores, fake)
    distinct = np.unique(np.concatenate([[0.0], scores, [1.0]]))
    candidates, gaps = (distinct[1:] + distinct[:-1]) / 2, np.diff(distinct)
    reached = np.searchsorted(-ranking.scores, -candidates, side="right")
    # Balanced accuracy, less a half.
    worth = np.concatenate([[0.0], ranking.recall - ranking.false_positive_rate])[reached] / 2
    best = worth >= worth.max() - 1e-9
    return float(candidates[best][np.argmax(gaps[best])])


def measured_threshold(value: float, scores: Floats, fake: Labels, groups: Names) -> Threshold:
    """Count the false positives of a threshold that was chosen on other photographs than these."""
    highest = _of_groups(np.maximum, scores[~fake], groups[~fake])
    counted = int(np.count_nonzero(highest >= value))
    return Threshold(
        value,
        counted,
        len(highest),
        clopper_pearson(counted, len(highest), CONFIDENCE),
        upper_bound(counted, len(highest), CONFIDENCE),
    )


def lowest_inconclusive(probabilities: Floats, fake: Labels, groups: Names, miss_limit: float) -> float:
    """Return the highest probability below which at most `miss_limit` of all fakes lie, by the exact upper bound.

    Raises:
        TooFewPhotographsError: there are too few photographs that fakes were made from.
    """
    lowest = np.sort(_of_groups(np.minimum, probabilities[fake], groups[fake]))
    return float(lowest[allowed_misses(len(lowest), miss_limit)])


def _interval(counted: int, allowed: int, photographs: int, confidence: float) -> EstimateInterval:
    """Quantiles of Beta(k + 1, n - k) without ties; ties leave fewer above, of which less can be said from below.

    The rate that was counted, k / n, lies in it: below the lower quantile where k is 0, it takes that one's place.
    """
    each_side = (1 + confidence) / 2
    from_below = counted + 1 if counted == allowed else counted
    low = lower_bound(min(from_below, photographs), photographs, each_side)
    return EstimateInterval(min(low, counted / photographs), upper_bound(allowed, photographs, each_side))


def _of_groups(extreme: np.ufunc, values: Floats, groups: Names) -> Floats:
    """The highest or lowest value of each group."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], groups[order][1:] != groups[order][:-1]]))
    extremes: Floats = extreme.reduceat(values[order], starts)
    return extremes
