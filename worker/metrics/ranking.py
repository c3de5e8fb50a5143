"""Metrics of a detector: how well its scores separate fakes from real images.

Every metric is computed from one table. For each distinct score it gives the number of fakes and of real images that
reach the score. Images with equal scores are counted together, so no metric depends on the order of the images. Weights
of shape (R, N) give R tables at once, one for each resample of a bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

ESTIMABLE_REALS = 300
"""With fewer independent real images, the true-positive rate at 1 % false positives is not estimable: the limit then
allows only one or two false positives, and the result depends on those few images."""

ESTIMABLE_VERDICTS = 10
"""With fewer independent images that are classified as FAKE, no precision is reported: one wrong verdict would change
it completely, and no wrong verdict would mean almost nothing."""

PREVALENCES = (0.001, 0.01, 0.1)
"""Shares of fakes among the images of a platform, for which the precision is reported."""

CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Ranking:
    """The table of counts.

    `scores`: (K,), distinct and descending. `fakes`, `reals`: (..., K), how many images of the class reach each score.
    """

    scores: Floats
    fakes: Floats
    reals: Floats

    @property
    def recall(self) -> Floats:
        """Share of the fakes that reach each score (the true-positive rate), (..., K); NaN without fakes."""
        return _ratio(self.fakes, self.fakes[..., -1:])

    @property
    def false_positive_rate(self) -> Floats:
        """Share of the real images that reach each score, (..., K); NaN without real images."""
        return _ratio(self.reals, self.reals[..., -1:])

    @property
    def precision(self) -> Floats:
        """Share of fakes among the images that reach each score, (..., K); 0 where no image does."""
        return np.nan_to_num(_ratio(self.fakes, self.fakes + self.reals))

    @property
    def evenly(self) -> Ranking:
        """The same table with both classes weighted equally, however many images each has; NaN if one is missing.

        Metrics of calibration need it: in a calibrated probability, 0.5 means "as likely a fake as a real image".
        """
        return Ranking(self.scores, self.recall, self.false_positive_rate)


@dataclass(frozen=True)
class Reliability:
    """Bins of equal mass, from low to high probability. Each field has the shape (..., bins).

    `mass`: the share of all images that are in the bin. `mean_probability`: their mean probability of being fake.
    `share_fake`: the share of fakes among them. The last two are NaN if ties leave the bin empty.
    """

    mass: Floats
    mean_probability: Floats
    share_fake: Floats


def rank(scores: Floats, fake: Labels, weights: Floats | None = None) -> Ranking:
    """Count the fakes and the real images that reach each distinct score.

    Args:
        scores: (N,), higher for "fake"; N > 0, no NaN.
        fake: (N,), the true labels.
        weights: (..., N), how often each image counts; by default once.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    counted = np.ones(len(scores)) if weights is None else weights[..., order]
    fakes = np.cumsum(counted * fake[order], axis=-1)[..., ends]
    reals = np.cumsum(counted * ~fake[order], axis=-1)[..., ends]
    return Ranking(scores[order][ends].astype(np.float64), fakes, reals)


def missing_classes(fake: Labels) -> tuple[Literal["real", "fake"], ...]:
    """Return the classes that have no image among the labels (N,); empty if both are present."""
    found: dict[Literal["real", "fake"], np.bool_] = {"real": np.any(~fake), "fake": np.any(fake)}
    return tuple(name for name, present in found.items() if not present)


def average_precision(scores: Floats, fake: Labels) -> float:
    """Return the average precision of scores (N,); NaN without fakes."""
    return float(area_under_precision(rank(scores, fake)))


def roc_auc(scores: Floats, fake: Labels) -> float:
    """Return the area under the ROC curve of scores (N,); NaN if a class is missing."""
    return float(area_under_roc(rank(scores, fake)))


def area_under_precision(ranking: Ranking) -> Floats:
    """Return the average precision, (...): the sum of (R_n - R_(n-1)) P_n over distinct scores, not interpolated."""
    steps = np.diff(ranking.recall, prepend=0.0, axis=-1)
    return np.asarray(np.sum(steps * ranking.precision, axis=-1))


def area_under_roc(ranking: Ranking) -> Floats:
    """Return the probability, (...), that a fake scores higher than a real image; ties count 1/2 (Mann and Whitney)."""
    widths = np.diff(ranking.false_positive_rate, prepend=0.0, axis=-1)
    heights = ranking.recall - np.diff(ranking.recall, prepend=0.0, axis=-1) / 2
    return np.asarray(np.sum(widths * heights, axis=-1))


def recall_at_false_positive_rate(ranking: Ranking, limit: float) -> Floats:
    """Return the highest true-positive rate of a threshold whose false-positive rate is at most `limit`, (...).

    The caller checks that there are enough real images to estimate it: see `ESTIMABLE_REALS`.
    """
    allowed = np.where(ranking.false_positive_rate <= limit, ranking.recall, 0.0)
    return np.asarray(np.max(allowed, axis=-1, initial=0.0))


def recall_at(ranking: Ranking, threshold: float) -> Floats:
    """Return the share of the fakes that reach a threshold, (...)."""
    return _at(ranking.recall, ranking, threshold)


def false_positive_rate_at(ranking: Ranking, threshold: float) -> Floats:
    """Return the share of the real images that reach a threshold, (...)."""
    return _at(ranking.false_positive_rate, ranking, threshold)


def accuracy_at(ranking: Ranking, threshold: float) -> Floats:
    """Return the share of the images that are classified correctly, (...): as FAKE if they reach the threshold."""
    found, wronged = _at(ranking.fakes, ranking, threshold), _at(ranking.reals, ranking, threshold)
    correct = found + ranking.reals[..., -1] - wronged
    return _ratio(correct, ranking.fakes[..., -1] + ranking.reals[..., -1])


def balanced_accuracy_at(ranking: Ranking, threshold: float) -> Floats:
    """Return the mean of two shares, (...): of fakes and of real images that are classified correctly."""
    return (recall_at(ranking, threshold) + 1 - false_positive_rate_at(ranking, threshold)) / 2


def precision_at_prevalence(ranking: Ranking, threshold: float, prevalence: float) -> Floats:
    """Return the share of fakes among the images that are classified as FAKE, (...), by Bayes' rule.

    `prevalence` is the share of fakes among all images. The result is NaN if no image is classified as FAKE.
    """
    found = prevalence * recall_at(ranking, threshold)
    return _ratio(found, found + (1 - prevalence) * false_positive_rate_at(ranking, threshold))


def brier(ranking: Ranking) -> Floats:
    """Return the Brier score, (...): the mean squared difference of probability and true label (0 or 1).

    The scores must be probabilities.
    """
    fakes, reals = _per_score(ranking)
    squares = fakes * (1 - ranking.scores) ** 2 + reals * ranking.scores**2
    return _ratio(np.sum(squares, axis=-1), ranking.fakes[..., -1] + ranking.reals[..., -1])


def reliability(ranking: Ranking, bins: int = CALIBRATION_BINS) -> Reliability:
    """Compare probabilities with the shares of fakes, in bins of equal mass. The scores must be probabilities.

    Images with the same probability share a bin, that of their middle rank. So the bins are equal as far as ties allow.
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
    """Return the expected calibration error, (...), over bins of equal mass.

    It is the mean distance between mean probability and share of fakes, weighted by the bins' mass.
    """
    found = reliability(ranking, bins)
    return np.asarray(np.sum(found.mass * np.nan_to_num(np.abs(found.mean_probability - found.share_fake)), axis=-1))


def _per_score(ranking: Ranking) -> tuple[Floats, Floats]:
    """Return how many fakes and how many real images have each score, both (..., K)."""
    return np.diff(ranking.fakes, prepend=0.0, axis=-1), np.diff(ranking.reals, prepend=0.0, axis=-1)


def _at(values: Floats, ranking: Ranking, threshold: float) -> Floats:
    """Return the value at the lowest score that reaches the threshold; 0 if none does (NaN stays NaN)."""
    reached = int(np.searchsorted(-ranking.scores, -threshold, side="right"))
    return np.asarray(values[..., reached - 1] if reached else values[..., -1] * 0.0)


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Return the quotient; NaN, without a warning, where the whole is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    quotient: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)
    return quotient
