"""Confidence intervals: a bootstrap over groups, exact binomial bounds of shares, and Student's t for a few trainings.

A group holds all crops, edits and fakes of one source photograph. Images of one group are similar, so they are not
independent; the groups are. The bootstrap and the binomial bounds therefore count groups, not images. Trainings that
differ only in their seed are independent, so Student's t counts each of them.
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
"""Bisection steps: enough to exhaust the precision of a float64 in [0, 1]."""

_CHUNK_NUMBERS = 4_000_000
"""How many weights are held in memory at once: 32 MB."""


@dataclass(frozen=True)
class EstimateInterval:
    """The interval from `low` to `high`; both are NaN if there are too few data for an interval."""

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
    """Return the bootstrap percentile interval of each statistic.

    This is the cluster bootstrap: each resample draws whole groups with replacement, as many as there are, so that
    similar images stay together. If a statistic of a resample is NaN, because no image of one class was drawn, the
    statistic's interval ignores that resample. With a single group, every interval is NaN.

    Args:
        statistics: takes weights (R, N), how often each image was drawn, and returns M statistics of each resample,
            (M, R).
        groups: (N,), each image's group.
        resamples: how many resamples are drawn.
        seed: the same seed gives the same intervals.
        confidence: the share of the resamples' statistics that lie in the interval.
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
    """Return how often each resample draws each group, (draws, groups)."""
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

    If the true share equalled the bound, at most this many successes would occur with the probability 1 - confidence.
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
    """Return the exact one-sided lower bound of a share: 1 minus the upper bound of the share of failures."""
    return 1 - upper_bound(trials - successes, trials, confidence)


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> EstimateInterval:
    """Return the exact two-sided interval of a share; it covers the true share with at least the given confidence."""
    each_side = (1 + confidence) / 2
    return EstimateInterval(lower_bound(successes, trials, each_side), upper_bound(successes, trials, each_side))


def share_interval(share: float, groups: int, confidence: float = 0.95) -> EstimateInterval:
    """Return the exact interval of a share of images, as if all images of a group had got the same verdict.

    `share * groups` need not be a whole number: the lower bound takes the whole number below it, the upper bound the
    one above.
    """
    successes = round(share * groups, 6)
    return EstimateInterval(
        clopper_pearson(int(np.floor(successes)), groups, confidence).low,
        clopper_pearson(int(np.ceil(successes)), groups, confidence).high,
    )


@dataclass(frozen=True)
class Separation:
    """Bounds for a detector that ranked every fake of a sample above every real image.

    `missed`: the upper bound of the share of all fakes that score below the sample's lowest fake. `wronged`: the upper
    bound of the share of all real images that score above the sample's highest real image. Both hold together with the
    given confidence, whatever the distributions of the scores.
    """

    missed: float
    wronged: float

    @classmethod
    def of(cls, fakes: int, photographs: int, confidence: float = 0.95) -> Self:
        """Return the exact bounds for so many independent fakes and real images: those of 0 cases in each."""
        each_side = (1 + confidence) / 2
        return cls(upper_bound(0, fakes, each_side), upper_bound(0, photographs, each_side))

    @property
    def least_area(self) -> float:
        """The lowest area under the ROC curve: the share of pairs within both bounds, which are ranked correctly."""
        return (1 - self.missed) * (1 - self.wronged)

    @property
    def least_balanced_accuracy(self) -> float:
        """The lowest balanced accuracy of a threshold between the sample's real images and its fakes."""
        return 1 - (self.missed + self.wronged) / 2

    def least_precision(self, share: float) -> float:
        """Return the lowest average precision if `share` of the images are fakes.

        At the recall r, the precision is at least r / (r + c). Here c is the number of wronged real images per fake.
        The result is the integral of this from r = 0 to 1 - missed; beyond it, the precision is taken as 0.
        """
        found, above = 1 - self.missed, self.wronged * (1 - share) / share
        return found - above * float(np.log1p(found / above))


def most_successes(trials: int, limit: float, confidence: float = 0.95) -> int | None:
    """Return the greatest number of successes whose upper bound is at most `limit`; None if even 0 exceeds it.

    Args:
        trials: the number of trials.
        limit: between 0 and 1, exclusive.
        confidence: of the upper bound.
    """
    within = int(np.count_nonzero(_at_most(trials, trials, limit) <= 1 - confidence))
    return within - 1 if within else None


def fewest_trials(limit: float, confidence: float = 0.95) -> int:
    """Return how many trials without a success are needed for an upper bound of at most `limit`."""
    return int(np.ceil(np.log(1 - confidence) / np.log1p(-limit)))


def mean_interval(values: Floats, confidence: float = 0.95) -> EstimateInterval:
    """Return Student's interval of the mean of (N,) independent, roughly normal values; NaN for fewer than two."""
    count = len(values)
    if count < 2:
        return EstimateInterval(np.nan, np.nan)
    half = student_quantile((1 + confidence) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count)
    return EstimateInterval(float(np.mean(values) - half), float(np.mean(values) + half))


def student_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution for a probability of at least 1/2.

    The quantile is sqrt(degrees) · tan(angle). The probability that |t| is below it is a finite sum of powers of the
    cosine (Abramowitz and Stegun 26.7.3 and 26.7.4). Bisection finds the angle.
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
    """Return P(|t| <= sqrt(degrees) · tan(angle)) for Student's distribution."""
    odd = degrees % 2
    steps = np.arange(1, (degrees - odd) // 2)
    factors = np.cumprod(np.concatenate([[1.0], (2 * steps - 1 + odd) / (2 * steps + odd)]))
    terms = factors * np.cos(angle) ** (2 * np.arange(len(factors)) + odd)
    series = float(np.sin(angle) * terms.sum()) if degrees > 1 else 0.0
    return 2 / np.pi * (angle + series) if odd else series


def _at_most(successes: int, trials: int, share: float) -> Floats:
    """Return P(X <= k) of the binomial distribution for k = 0 ... successes, with 0 < share < 1."""
    k = np.arange(1, successes + 1)
    log_chosen = np.concatenate([[0.0], np.cumsum(np.log((trials - k + 1) / k))])
    counts = np.arange(successes + 1)
    return np.cumsum(np.exp(log_chosen + counts * np.log(share) + (trials - counts) * np.log1p(-share)))
