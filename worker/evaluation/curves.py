"""The curves of a report, reduced to as many points as a reader can see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worker.metrics.ranking import Floats, Labels, rank, reliability

_POINTS = 200
_BARS = 25

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Bin:
    """Images of similar probability: the share of all, their mean probability, and the share of fakes among them.

    In all three real images and fakes weigh the same, however many there are of each.
    """

    mass: float
    mean_probability: float
    share_fake: float


@dataclass(frozen=True)
class Histogram:
    """The shares of real images and of fakes in bars of equal width between the probabilities 0 and 1."""

    reals: list[float]
    fakes: list[float]


@dataclass(frozen=True)
class Curves:
    """`roc`: (false-positive rate, true-positive rate); `precision_recall`: (recall, precision); both ascending."""

    roc: Points
    precision_recall: Points
    reliability: list[Bin]
    histogram: Histogram


def curves(probabilities: Floats, fake: Labels) -> Curves:
    """Return the curves of probabilities (N,) of being fake."""
    ranking = rank(probabilities, fake)
    bins = reliability(ranking.evenly)
    return Curves(
        roc=roc(probabilities, fake),
        precision_recall=_thinned(ranking.recall, ranking.precision),
        reliability=[
            Bin(*numbers)
            for numbers in zip(
                bins.mass.tolist(), bins.mean_probability.tolist(), bins.share_fake.tolist(), strict=True
            )
            if numbers[0] > 0
        ],
        histogram=Histogram(_shares(probabilities[~fake]), _shares(probabilities[fake])),
    )


def roc(probabilities: Floats, fake: Labels) -> Points:
    """Return the ROC curve, from (0, 0) to (1, 1)."""
    ranking = rank(probabilities, fake)
    return _thinned(np.append(0.0, ranking.false_positive_rate), np.append(0.0, ranking.recall))


def _thinned(x: Floats, y: Floats) -> Points:
    """Keep first and last point and, of the others, about as many as can be seen, evenly along the curve."""
    steps = np.abs(np.diff(x)) + np.abs(np.diff(y))
    along = np.append(0.0, np.cumsum(steps))
    kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], _POINTS)).clip(0, len(x) - 1))
    kept = np.unique(np.concatenate([[0], kept, [len(x) - 1]]))
    return [(round(a, 6), round(b, 6)) for a, b in zip(x[kept].tolist(), y[kept].tolist(), strict=True)]


def _shares(probabilities: Floats) -> list[float]:
    counts, _ = np.histogram(probabilities, bins=_BARS, range=(0, 1))
    return [float(count) for count in counts / max(len(probabilities), 1)]
