"""Figures of a student on held-out examples, and the threshold, which is chosen on other examples than they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.training.fakes import PHOTOGRAPH

Scores = NDArray[np.float64]
Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class Figures:
    """Held-out results; rates are in [0, 1].

    `photographs_right` is the share of photographs called REAL, `fakes_right` that of each kind of fake called FAKE,
    `balanced_accuracy` the mean of `photographs_right` and the share of all fakes called FAKE.
    """

    photographs: int
    fakes: int
    average_precision: float
    accuracy: float
    balanced_accuracy: float
    photographs_right: float
    fakes_right: dict[str, float]


def figures(scores: Scores, fake: Labels, kinds: NDArray[np.str_], threshold: float) -> Figures:
    """Compare probabilities (N,) with the truth; what reaches the threshold is called FAKE."""
    called = scores >= threshold
    by_kind = {str(kind): float(called[kinds == kind].mean()) for kind in np.unique(kinds[kinds != PHOTOGRAPH])}
    return Figures(
        photographs=int((~fake).sum()),
        fakes=int(fake.sum()),
        average_precision=average_precision(scores, fake),
        accuracy=float((called == fake).mean()),
        balanced_accuracy=balanced_accuracy(scores, fake, threshold),
        photographs_right=float((~called[~fake]).mean()),
        fakes_right=by_kind,
    )


def average_precision(scores: Scores, fake: Labels) -> float:
    """Area under precision over recall, as a sum over the distinct scores: sum of (R_n - R_(n-1)) P_n."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # equal scores are taken together
    found = np.cumsum(fake[order])[ends]
    precision, recall = found / (ends + 1), found / fake.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def balanced_accuracy(scores: Scores, fake: Labels, threshold: float) -> float:
    """Mean of the shares of photographs and of fakes that are called rightly."""
    called = scores >= threshold
    return float((called[fake].mean() + (~called[~fake]).mean()) / 2)


def choose_threshold(scores: Scores, fake: Labels) -> float:
    """Return the threshold with the best balanced accuracy; of several equally good, the middle of the widest gap.

    Candidates lie halfway between neighbouring scores, so that none of them decides by its last digit.
    """
    distinct = np.unique(np.concatenate([[0.0], scores, [1.0]]))
    candidates, gaps = (distinct[1:] + distinct[:-1]) / 2, np.diff(distinct)
    worth = np.array([balanced_accuracy(scores, fake, threshold) for threshold in candidates])
    best = worth >= worth.max() - 1e-9
    return round(float(candidates[best][np.argmax(gaps[best])]), 4)
