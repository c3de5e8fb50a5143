"""Figures of a detector: what its scores are worth against the truth.

Everything follows from one table, which says for each distinct score how many fakes and how many photographs reach it.
Equal scores are never told apart, so no figure depends on the order of the images. Weights of shape (R, N) give R
tables at once: a bootstrap counts each image as often as it was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

ESTIMABLE_REALS = 300
"""Independent photographs below which the true-positive rate at 1 % false positives is not estimable: with fewer, the
limit is one or two photographs, and the figure tells of those."""

ESTIMABLE_VERDICTS = 10
"""Independent images called FAKE below which no precision is told: of fewer, one wrong verdict would change it wholly,
and none among them says next to nothing."""

PREVALENCES = (0.001, 0.01, 0.1)
"""Shares of fakes among the images of a platform, for which precision is told."""

CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Ranking:
    """The table: `scores` (K,), distinct and descending; `fakes` and `reals` (..., K), how many reach each of them."""

    scores: Floats
    fakes: Floats
    reals: Floats

    @property
    def recall(self) -> Floats:
        """Share of the fakes that reach each score (the true-positive rate), (..., K); NaN without fakes."""
        return _ratio(self.fakes, self.fakes[..., -1:])

    @property
    def false_positive_rate(self) -> Floats:
        """Share of the photographs that reach each score (the false-positive rate), (..., K); NaN without any."""
        return _ratio(self.reals, self.reals[..., -1:])

    @property
    def precision(self) -> Floats:
        """Share of fakes among what reaches each score, (..., K); 0 where nothing does."""
        return np.nan_to_num(_ratio(self.fakes, self.fakes + self.reals))

    @property
    def evenly(self) -> Ranking:
        """The same where both classes weigh the same, however many images of each there are; NaN where one is missing.

        For what asks of a probability that it be true: calibrated ones mean "as likely from either" by 0.5.
        """
        return Ranking(self.scores, self.recall, self.false_positive_rate)


@dataclass(frozen=True)
class Reliability:
    """Bins of equal mass, from low to high probability; each field (..., bins).

    `mass` is the share of the images in each bin, `mean_probability` their mean probability of being fake, `share_fake`
    the share of fakes among them. The last two are NaN in a bin that ties left empty.
    """

    mass: Floats
    mean_probability: Floats
    share_fake: Floats


def rank(scores: Floats, fake: Labels, weights: Floats | None = None) -> Ranking:
    """Count the fakes and the photographs that reach each distinct score.

    Args:
        scores: (N,), higher for "fake"; N > 0, no NaN.
        fake: (N,), the truth.
        weights: (..., N), how often each image counts; by default once.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    counted = np.ones(len(scores)) if weights is None else weights[..., order]
    fakes = np.cumsum(counted * fake[order], axis=-1)[..., ends]
    reals = np.cumsum(counted * ~fake[order], axis=-1)[..., ends]
    return Ranking(scores[order][ends].astype(np.float64), fakes, reals)


def missing_classes(fake: Labels) -> tuple[Literal["real", "fake"], ...]:
    """Return the classes of which labels (N,) have no image; empty if both are there."""
    present: dict[Literal["real", "fake"], np.bool_] = {"real": np.any(~fake), "fake": np.any(fake)}
    return tuple(name for name, there in present.items() if not there)


def average_precision(scores: Floats, fake: Labels) -> float:
    """Return the average precision of scores (N,); NaN without fakes."""
    return float(area_under_precision(rank(scores, fake)))


def roc_auc(scores: Floats, fake: Labels) -> float:
    """Return the area under the ROC curve of scores (N,); NaN where a class is missing."""
    return float(area_under_roc(rank(scores, fake)))


def area_under_precision(ranking: Ranking) -> Floats:
    """Average precision, (...): the sum over the distinct scores of (R_n - R_(n-1)) P_n, without interpolation."""
    steps = np.diff(ranking.recall, prepend=0.0, axis=-1)
    return np.asarray(np.sum(steps * ranking.precision, axis=-1))


def area_under_roc(ranking: Ranking) -> Floats:
    """Probability that a fake scores higher than a photograph, ties counting one half (Mann and Whitney), (...)."""
    widths = np.diff(ranking.false_positive_rate, prepend=0.0, axis=-1)
    heights = ranking.recall - np.diff(ranking.recall, prepend=0.0, axis=-1) / 2
    return np.asarray(np.sum(widths * heights, axis=-1))


def recall_at_false_positive_rate(ranking: Ranking, limit: float) -> Floats:
    """Return the highest true-positive rate of a threshold whose false-positive rate is at most `limit`, (...).

    Whether the data can tell it is the caller's to ask: see `ESTIMABLE_REALS`.
    """
    allowed = np.where(ranking.false_positive_rate <= limit, ranking.recall, 0.0)
    return np.asarray(np.max(allowed, axis=-1, initial=0.0))


def recall_at(ranking: Ranking, threshold: float) -> Floats:
    """Share of the fakes that reach a threshold, (...)."""
    return _at(ranking.recall, ranking, threshold)


def false_positive_rate_at(ranking: Ranking, threshold: float) -> Floats:
    """Share of the photographs that reach a threshold, (...)."""
    return _at(ranking.false_positive_rate, ranking, threshold)


def accuracy_at(ranking: Ranking, threshold: float) -> Floats:
    """Share of the images that are called rightly, FAKE from the threshold on, (...)."""
    found, wronged = _at(ranking.fakes, ranking, threshold), _at(ranking.reals, ranking, threshold)
    right = found + ranking.reals[..., -1] - wronged
    return _ratio(right, ranking.fakes[..., -1] + ranking.reals[..., -1])


def balanced_accuracy_at(ranking: Ranking, threshold: float) -> Floats:
    """Mean of the shares of fakes and of photographs that are called rightly, (...)."""
    return (recall_at(ranking, threshold) + 1 - false_positive_rate_at(ranking, threshold)) / 2


def precision_at_prevalence(ranking: Ranking, threshold: float, prevalence: float) -> Floats:
    """Share of fakes among the images classified as FAKE where `prevalence` of all images are fakes (Bayes), (...).

    NaN where nothing is classified as FAKE.
    """
    found = prevalence * recall_at(ranking, threshold)
    return _ratio(found, found + (1 - prevalence) * false_positive_rate_at(ranking, threshold))


def brier(ranking: Ranking) -> Floats:
    """Mean squared difference between the probability, which the scores must be, and the truth (0 or 1), (...)."""
    fakes, reals = _per_score(ranking)
    squares = fakes * (1 - ranking.scores) ** 2 + reals * ranking.scores**2
    return _ratio(np.sum(squares, axis=-1), ranking.fakes[..., -1] + ranking.reals[..., -1])


def reliability(ranking: Ranking, bins: int = CALIBRATION_BINS) -> Reliability:
    """Compare probabilities, which the scores must be, with the shares of fakes, in bins of equal mass.

    Images of one probability go into one bin, that of their middle rank; so bins are equal as far as ties allow.
    """
    fakes, reals = (counts.reshape(-1, len(ranking.scores)) for counts in _per_score(ranking))
    each = fakes + reals
    total = each.sum(axis=1, keepdims=True)
    middle = (np.cumsum(each[:, ::-1], axis=1)[:, ::-1] - each / 2) / total
    bin_of = np.clip((middle * bins).astype(np.intp), 0, bins - 1)
    cells = bin_of + bins * np.arange(len(each))[:, None]

    def binned(values: Floats) -> Floats:
        sums: Floats = np.bincount(cells.ravel(), values.ravel(), minlength=bins * len(each)).astype(np.float64)
        return sums.reshape(*ranking.fakes.shape[:-1], bins)

    mass = binned(each)
    return Reliability(
        mass / total.reshape(*ranking.fakes.shape[:-1], 1),
        _ratio(binned(each * ranking.scores), mass),
        _ratio(binned(fakes), mass),
    )


def calibration_error(ranking: Ranking, bins: int = CALIBRATION_BINS) -> Floats:
    """Mean distance between probability and share of fakes over bins of equal mass, weighted by their mass, (...)."""
    found = reliability(ranking, bins)
    return np.asarray(np.sum(found.mass * np.nan_to_num(np.abs(found.mean_probability - found.share_fake)), axis=-1))


def _per_score(ranking: Ranking) -> tuple[Floats, Floats]:
    """How many fakes and photographs have each score."""
    return np.diff(ranking.fakes, prepend=0.0, axis=-1), np.diff(ranking.reals, prepend=0.0, axis=-1)


def _at(values: Floats, ranking: Ranking, threshold: float) -> Floats:
    """The value at the lowest score that reaches the threshold; 0 (of what has any) where none does."""
    reached = int(np.searchsorted(-ranking.scores, -threshold, side="right"))
    return np.asarray(values[..., reached - 1] if reached else values[..., -1] * 0.0)


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Quotient; NaN instead of a warning where the whole is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    quotient: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)
    return quotient
