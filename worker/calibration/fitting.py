"""From scores of labelled images to a policy: probabilities that mean something, and a threshold one can defend."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from worker.calibration.thresholds import (
    CONFIDENCE,
    CalibrationError,
    Threshold,
    TooFewPhotographsError,
    allowed_false_positives,
    allowed_misses,
    lowest_inconclusive,
    measured_threshold,
    threshold_for_false_positives,
    youden_threshold,
)
from worker.metrics.logistic import fit_logistic
from worker.metrics.ranking import Floats, Labels, missing_classes
from worker.metrics.scores import Names, Scores
from worker.model.cards.schema import Format
from worker.model.verdicts.policy import Evidence, Policy
from worker.model.verdicts.verdict import sigmoids


@dataclass(frozen=True)
class Calibration:
    """Probability of being fake = sigmoid(logit / temperature + bias)."""

    temperature: float
    bias: float

    def of(self, scores: Scores) -> Floats:
        """Return the calibrated probabilities (N,), computed as a service computes them."""
        return sigmoids(scores.logits / self.temperature + self.bias)


@dataclass(frozen=True)
class Origin:
    """What a policy is for and from: its name, the model's, weights and number format, time, data and its files."""

    name: str
    model: str
    weights_sha256: str
    precision: Format
    made_at: datetime
    data_sha256: str
    media_types: tuple[str, ...] = ()


def fit_calibration(logits: Floats, fake: Labels) -> Calibration:
    """Fit temperature and bias by least negative log-likelihood.

    Both classes weigh the same, so that 0.5 means "as likely from a fake as from a photograph", however many of each
    were collected. The targets are Platt's (1999), (n + 1) / (n + 2) and 1 / (n + 2) instead of 1 and 0: without them a
    model that separates the classes would be certain of everything.

    Raises:
        CalibrationError: the fakes' logits are not higher than the photographs'.
    """
    fakes, reals = int(fake.sum()), int((~fake).sum())
    targets = np.where(fake, (fakes + 1) / (fakes + 2), 1 / (reals + 2))
    weights = np.where(fake, 0.5 / fakes, 0.5 / reals)
    slope, bias = fit_logistic(np.column_stack([logits, np.ones(len(logits))]), targets, weights).tolist()
    if slope <= 0:
        raise CalibrationError(
            "On these images the model finds photographs no less fake than fakes, so no threshold is of use. Check the "
            "labels; if they are right, the model does not know these generators."
        )
    return Calibration(1 / slope, bias)


def policy_for_target(scores: Scores, origin: Origin, target_fpr: float, max_miss_rate: float | None = None) -> Policy:
    """Make a policy with the lowest threshold whose false-positive rate is at most `target_fpr`, by its upper bound.

    Args:
        scores: of images that the model was not trained on.
        origin: what the policy says of itself.
        target_fpr: the highest false-positive rate that may be, between 0 and 1.
        max_miss_rate: if given, only what lies below so many of the fakes is called REAL, the rest up to the threshold
            INCONCLUSIVE.

    Raises:
        CalibrationError, TooFewPhotographsError: as the functions of worker/calibration/thresholds.py.
    """
    _check_classes(scores.fake)
    calibration = fit_calibration(scores.logits, scores.fake)
    probabilities = calibration.of(scores)
    threshold = threshold_for_false_positives(probabilities, scores.fake, scores.groups, target_fpr)
    return _policy(scores, probabilities, origin, calibration, threshold, target_fpr, max_miss_rate)


def policy_by_youden(scores: Scores, origin: Origin, seed: int = 0, max_miss_rate: float | None = None) -> Policy:
    """Make a policy by Youden's J. Half of the photographs choose the threshold, the other half measures its rates.

    Raises:
        CalibrationError, TooFewPhotographsError: as `policy_for_target`; or a half lacks a class.
    """
    _check_classes(scores.fake)
    chooses = half_of(scores.groups, seed)
    choosing, measuring = scores.only(chooses), scores.only(~chooses)
    for half in (choosing, measuring):
        _check_classes(half.fake)
    calibration = fit_calibration(choosing.logits, choosing.fake)
    value = youden_threshold(calibration.of(choosing), choosing.fake)
    probabilities = calibration.of(measuring)
    threshold = measured_threshold(value, probabilities, measuring.fake, measuring.groups)
    return _policy(measuring, probabilities, origin, calibration, threshold, None, max_miss_rate)


def check_enough(
    fake: Labels, groups: Names, target_fpr: float | None, max_miss_rate: float | None, seed: int = 0
) -> None:
    """Refuse what these images could not give whatever their scores, before they are judged.

    Args:
        fake: (N,), the truth.
        groups: (N,), each image's source photograph.
        target_fpr: of `policy_for_target`; None for `policy_by_youden`.
        max_miss_rate: as theirs.
        seed: of the halves of `policy_by_youden`.

    Raises:
        TooFewPhotographsError: there are too few groups, or a class is missing.
    """
    _check_classes(fake)
    measures = np.ones(len(fake), dtype=np.bool_)
    if target_fpr is None:
        measures = ~half_of(groups, seed)
        _check_classes(fake[measures])
        _check_classes(fake[~measures])
    else:
        allowed_false_positives(len(np.unique(groups[~fake])), target_fpr)
    if max_miss_rate is not None:
        allowed_misses(len(np.unique(groups[measures & fake])), max_miss_rate)


def half_of(groups: Names, seed: int) -> Labels:
    """Choose half of the groups at random; true (N,) for their images."""
    names = np.unique(groups)
    chosen = np.random.default_rng(seed).permutation(names)[: (len(names) + 1) // 2]
    return np.isin(groups, chosen)


def _policy(
    measured: Scores,
    probabilities: Floats,
    origin: Origin,
    calibration: Calibration,
    threshold: Threshold,
    target_fpr: float | None,
    max_miss_rate: float | None,
) -> Policy:
    band = None
    if max_miss_rate is not None:
        lowest = lowest_inconclusive(probabilities, measured.fake, measured.groups, max_miss_rate)
        band = lowest if lowest < threshold.value else None  # else the threshold itself misses few enough
    called_real = probabilities[measured.fake] < (threshold.value if band is None else band)
    fake_groups = measured.groups[measured.fake]
    evidence = Evidence(
        rule="youden" if target_fpr is None else "false_positive_rate",
        target_fpr=target_fpr,
        measured_fpr=threshold.false_positives / threshold.photographs,
        fpr_interval=(threshold.interval.low, threshold.interval.high),
        fpr_upper_bound=threshold.upper_bound,
        confidence=CONFIDENCE,
        max_miss_rate=max_miss_rate,
        missed_fakes=len(np.unique(fake_groups[called_real])) / len(np.unique(fake_groups)),
        reals=int((~measured.fake).sum()),
        real_groups=threshold.photographs,
        fakes=int(measured.fake.sum()),
        fake_groups=len(np.unique(fake_groups)),
        data_sha256=origin.data_sha256,
        media_types=origin.media_types,
    )
    return Policy(
        name=origin.name,
        model=origin.model,
        weights_sha256=origin.weights_sha256,
        precision=origin.precision,
        made_at=origin.made_at,
        threshold=threshold.value,
        temperature=calibration.temperature,
        bias=calibration.bias,
        inconclusive_from=band,
        evidence=evidence,
    )


def _check_classes(fake: Labels) -> None:
    for name in missing_classes(fake):
        raise TooFewPhotographsError(f"There are no {name} images. Add images of other groups.")
