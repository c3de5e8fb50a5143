"""The figures that the demonstration's card claims, by kind of fake."""

from __future__ import annotations

from dataclasses import dataclass

from worker.training.fakes import PHOTOGRAPH
from worker.training.metrics import (
    Floats,
    Labels,
    accuracy_at,
    area_under_precision,
    balanced_accuracy_at,
    fall_out_at,
    rank,
    recall_at,
)
from worker.training.scores import Names


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


def figures(scores: Floats, fake: Labels, kinds: Names, threshold: float) -> Figures:
    """Compare probabilities (N,) with the truth; what reaches the threshold is called FAKE."""
    ranking = rank(scores, fake)
    found = sorted(set(kinds.tolist()) - {PHOTOGRAPH})
    return Figures(
        photographs=int((~fake).sum()),
        fakes=int(fake.sum()),
        average_precision=float(area_under_precision(ranking)),
        accuracy=float(accuracy_at(ranking, threshold)),
        balanced_accuracy=float(balanced_accuracy_at(ranking, threshold)),
        photographs_right=1 - float(fall_out_at(ranking, threshold)),
        fakes_right={kind: float(recall_at(rank(scores, fake & (kinds == kind)), threshold)) for kind in found},
    )
