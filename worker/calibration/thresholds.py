"""Thresholds: the probability from which an image is classified as FAKE, and exact bounds of the resulting rates.

"Photographs" are groups of real images here: the unit that is independent. A photograph is a false positive if any of
its images is classified as FAKE. Counts are therefore of independent photographs, and the exact binomial bounds hold.
If every photograph has the same number of images, the rate among images is not higher.
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
    """No policy can be made from these images."""


class TooFewPhotographsError(CalibrationError):
    """There are too few independent photographs for the requested rate. Add photographs, or request a higher rate."""


@dataclass(frozen=True)
class Threshold:
    """A threshold and its false positives: their number, and the exact interval and upper bound of their share."""

    value: float
    false_positives: int
    photographs: int
    interval: EstimateInterval
    upper_bound: float


def allowed_false_positives(photographs: int, target: float, confidence: float = CONFIDENCE) -> int:
    """Return the highest number of false positives for which the upper bound of their share is at most `target`.

    Raises:
        TooFewPhotographsError: even with no false positive, the bound is higher.
    """
    allowed = most_successes(photographs, target, confidence)
    if allowed is None:
        raise TooFewPhotographsError(
            f"A false-positive rate of at most {target:g}, with a confidence of {confidence:g}, needs at least "
            f"{fewest_trials(target, confidence)} independent photographs; there are {photographs}. Add photographs "
            "of other groups, or request a higher rate."
        )
    return allowed


def allowed_misses(groups: int, limit: float) -> int:
    """Return the highest number of missed groups of fakes for which the upper bound of their share is at most `limit`.

    Raises:
        TooFewPhotographsError: even with no missed group, the bound is higher.
    """
    allowed = most_successes(groups, limit, CONFIDENCE)
    if allowed is None:
        raise TooFewPhotographsError(
            f"A band below which at most {limit:g} of the fakes lie needs fakes of at least "
            f"{fewest_trials(limit, CONFIDENCE)} independent groups; there are {groups}. Add fakes, or request a "
            "higher rate."
        )
    return allowed


def threshold_for_false_positives(
    probabilities: Floats, fake: Labels, groups: Names, target: float, confidence: float = CONFIDENCE
) -> Threshold:
    """Return the lowest threshold whose false-positive rate has an exact upper bound of at most `target`.

    The threshold lies just above the (k + 1)-th highest of n photographs, where k is the number of false positives that
    n photographs allow. So the share of all photographs above it follows Beta(k + 1, n - k), whatever the distribution
    of the scores. Bound and interval hold although the same photographs chose the threshold.

    Raises:
        TooFewPhotographsError: even for a threshold without a false positive, the bound is higher.
        CalibrationError: more than k photographs have the probability 1.
    """
    highest = np.sort(_of_groups(np.maximum, probabilities[~fake], groups[~fake]))[::-1]
    allowed = allowed_false_positives(len(highest), target, confidence)
    value = float(np.nextafter(highest[allowed], 2))
    if value > 1:
        raise CalibrationError(
            f"More than {allowed} of the {len(highest)} photographs have the probability 1 of being fake, so no "
            "threshold keeps the rate. Request a higher rate."
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
    """Return the threshold with the greatest Youden's J, hence with the best balanced accuracy.

    The scores are probabilities. Candidates lie halfway between neighbouring scores, so that no image's class depends
    on the last digit of its score. Of several equally good candidates, the one in the widest gap is returned.
    """
    ranking = rank(scores, fake)
    distinct = np.unique(np.concatenate([[0.0], scores, [1.0]]))
    candidates, gaps = (distinct[1:] + distinct[:-1]) / 2, np.diff(distinct)
    reached = np.searchsorted(-ranking.scores, -candidates, side="right")
    # Balanced accuracy minus 1/2.
    worth = np.concatenate([[0.0], ranking.recall - ranking.false_positive_rate])[reached] / 2
    best = worth >= worth.max() - 1e-9
    return float(candidates[best][np.argmax(gaps[best])])


def measured_threshold(value: float, scores: Floats, fake: Labels, groups: Names) -> Threshold:
    """Count the false positives of a threshold that other photographs chose."""
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
    """Return the highest probability below which, by the exact upper bound, at most `miss_limit` of all fakes lie.

    Raises:
        TooFewPhotographsError: there are fakes of too few groups.
    """
    lowest = np.sort(_of_groups(np.minimum, probabilities[fake], groups[fake]))
    return float(lowest[allowed_misses(len(lowest), miss_limit)])


def _interval(counted: int, allowed: int, photographs: int, confidence: float) -> EstimateInterval:
    """Return the interval of the false-positive rate.

    Without ties, its ends are quantiles of Beta(k + 1, n - k). With ties, fewer than k photographs lie above the
    threshold, and the lower end is the Clopper-Pearson bound of their number. The lower end never exceeds the counted
    rate: for k = 0, the lower quantile would.
    """
    each_side = (1 + confidence) / 2
    successes = counted + 1 if counted == allowed else counted
    low = lower_bound(min(successes, photographs), photographs, each_side)
    return EstimateInterval(min(low, counted / photographs), upper_bound(allowed, photographs, each_side))


def _of_groups(extreme: np.ufunc, values: Floats, groups: Names) -> Floats:
    """Return the highest or lowest value of each group."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], groups[order][1:] != groups[order][:-1]]))
    extremes: Floats = extreme.reduceat(values[order], starts)
    return extremes
