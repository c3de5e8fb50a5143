"""How sure a figure is: the bootstrap by source photograph, exact bounds of shares, and Student's of a few trainings.

Crops, edits and fakes of one photograph are alike, so images are not independent; their photographs are. The first two
therefore count photographs ("groups"), not images. Trainings that differ by their seed are independent as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from worker.metrics.ranking import Floats

_HALVINGS = 60
"""Bisection steps: more than a float64 in [0, 1] can tell apart."""

_CHUNK_NUMBERS = 4_000_000
"""Weights that are held at once: 32 MB."""


@dataclass(frozen=True)
class EstimateInterval:
    """From `low` to `high`, both NaN where nothing can be said."""

    low: float
    high: float


def grouped_bootstrap(
    statistics: Callable[[Floats], Floats],
    groups: NDArray[np.str_],
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[EstimateInterval]:
    """Return the percentile interval of each statistic where whole groups are drawn, with replacement.

    This is the cluster bootstrap: it keeps together what is alike.

    Args:
        statistics: takes weights (R, N), how often each image was drawn, and returns M statistics of each draw, (M, R).
        groups: (N,), each image's source photograph.
        resamples: how many times as many groups are drawn as there are.
        seed: the same seed gives the same intervals.
        confidence: the share of the draws' statistics that lie in the interval.

    Draws of which a statistic is NaN (one class was not drawn) are left out of it. Of a single group nothing is said.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    chunk = max(_CHUNK_NUMBERS // len(groups), 1)
    drawn = [
        statistics(_multiplicities(rng, min(chunk, resamples - start), len(names))[:, group_of])
        for start in range(0, resamples, chunk)
    ]
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    return [_percentiles(row[~np.isnan(row)], tails, len(names)) for row in np.concatenate(drawn, axis=1)]


def _multiplicities(rng: np.random.Generator, draws: int, groups: int) -> Floats:
    """How often each group is drawn, (draws, groups)."""
    picks = rng.integers(groups, size=(draws, groups)) + groups * np.arange(draws)[:, None]
    return np.bincount(picks.ravel(), minlength=draws * groups).reshape(draws, groups).astype(np.float64)


def _percentiles(values: Floats, tails: tuple[float, float], groups: int) -> EstimateInterval:
    if not len(values) or groups < 2:
        return EstimateInterval(np.nan, np.nan)
    low, high = np.quantile(values, tails)
    return EstimateInterval(float(low), float(high))


@lru_cache(maxsize=4096)
def upper_bound(successes: int, trials: int, confidence: float = 0.95) -> float:
    """Return the exact one-sided upper bound of a share (Clopper and Pearson 1934).

    It is the share with which so few successes would be seen with the probability 1 - confidence.
    """
    if successes >= trials:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _at_most(successes, trials, middle)[-1] > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def lower_bound(successes: int, trials: int, confidence: float = 0.95) -> float:
    """Return the exact one-sided lower bound of a share: what is left by the upper bound of the failures."""
    return 1 - upper_bound(trials - successes, trials, confidence)


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> EstimateInterval:
    """Return the exact two-sided interval of a share; it covers the truth at least with the given confidence."""
    each_side = (1 + confidence) / 2
    return EstimateInterval(lower_bound(successes, trials, each_side), upper_bound(successes, trials, each_side))


def share_interval(share: float, groups: int, confidence: float = 0.95) -> EstimateInterval:
    """Return the exact interval of a share of images, as if those of each of so many groups were all called alike.

    A share of a broken number of groups has the lower bound of the whole number below, the upper of that above.
    """
    seen = round(share * groups, 6)
    return EstimateInterval(
        clopper_pearson(int(np.floor(seen)), groups, confidence).low,
        clopper_pearson(int(np.ceil(seen)), groups, confidence).high,
    )


@dataclass(frozen=True)
class Separation:
    """What is ruled out of a detector that ranked all of so many independent fakes above all photographs.

    `missed`: the most fakes, as a share, that lie below the lowest of these; `wronged`: the most photographs that lie
    above the highest of these. Both hold together with the given confidence, whatever the scores' distributions.
    """

    missed: float
    wronged: float

    @classmethod
    def of(cls, fakes: int, photographs: int, confidence: float = 0.95) -> Self:
        """Return the exact bounds: those of a share of which no case was seen."""
        each_side = (1 + confidence) / 2
        return cls(upper_bound(0, fakes, each_side), upper_bound(0, photographs, each_side))

    @property
    def least_area(self) -> float:
        """The lowest area under the ROC curve: pairs that lie within the bounds are ranked rightly."""
        return (1 - self.missed) * (1 - self.wronged)

    @property
    def least_balanced_accuracy(self) -> float:
        """The lowest balanced accuracy of a threshold between the two."""
        return 1 - (self.missed + self.wronged) / 2

    def least_precision(self, share: float) -> float:
        """Return the lowest average precision where so many of the images are fakes.

        At the recall r the precision is at least r / (r + c), where c photographs lie above for each fake; its integral
        up to the fakes that are not missed is told, and of the others nothing.
        """
        found, above = 1 - self.missed, self.wronged * (1 - share) / share
        return found - above * float(np.log1p(found / above))


def most_successes(trials: int, limit: float, confidence: float = 0.95) -> int | None:
    """Return the greatest number of successes whose upper bound is at most `limit`; None if not even 0 is one.

    Args:
        trials: how many there are.
        limit: between 0 and 1, exclusive.
        confidence: of the upper bound.
    """
    within = int(np.count_nonzero(_at_most(trials, trials, limit) <= 1 - confidence))
    return within - 1 if within else None


def fewest_trials(limit: float, confidence: float = 0.95) -> int:
    """Return how many trials without a success it takes for the upper bound to be at most `limit`."""
    return int(np.ceil(np.log(1 - confidence) / np.log1p(-limit)))


def mean_interval(values: Floats, confidence: float = 0.95) -> EstimateInterval:
    """Return Student's interval of the mean of (N,) independent values, all about normal; of one nothing is said."""
    count = len(values)
    if count < 2:
        return EstimateInterval(np.nan, np.nan)
    half = student_quantile((1 + confidence) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count)
    return EstimateInterval(float(np.mean(values) - half), float(np.mean(values) + half))


def student_quantile(probability: float, degrees: int) -> float:
    """Return what Student's t with so many degrees of freedom does not exceed with a probability of at least 1/2.

    It is sqrt(degrees) · tan(angle), and the probability of |t| below that is a finite sum of powers of the cosine
    (Abramowitz and Stegun 26.7.3 and 26.7.4), which is solved for the angle by halving.
    """
    low, high = 0.0, np.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _within_angle(middle, degrees) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return float(np.sqrt(degrees) * np.tan(low))


def _within_angle(angle: float, degrees: int) -> float:
    """P(|t| <= sqrt(degrees) · tan(angle)) of Student's distribution."""
    odd = degrees % 2
    steps = np.arange(1, (degrees - odd) // 2)
    factors = np.cumprod(np.concatenate([[1.0], (2 * steps - 1 + odd) / (2 * steps + odd)]))
    terms = factors * np.cos(angle) ** (2 * np.arange(len(factors)) + odd)
    series = float(np.sin(angle) * terms.sum()) if degrees > 1 else 0.0
    return 2 / np.pi * (angle + series) if odd else series


def _at_most(successes: int, trials: int, share: float) -> Floats:
    """P(X <= k) of the binomial distribution for k = 0 ... successes, with 0 < share < 1."""
    k = np.arange(1, successes + 1)
    log_chosen = np.concatenate([[0.0], np.cumsum(np.log((trials - k + 1) / k))])
    counts = np.arange(successes + 1)
    return np.cumsum(np.exp(log_chosen + counts * np.log(share) + (trials - counts) * np.log1p(-share)))
