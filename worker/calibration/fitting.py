"""Fitting a policy to scores of labelled images: its calibration, its threshold, and the evidence for both."""

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
        """Return the calibrated probabilities (N,), exactly as a service computes them."""
        return sigmoids(scores.logits / self.temperature + self.bias)


@dataclass(frozen=True)
class Origin:
    """A policy's name, the model, weights and number format that it is for, and when and from which data it is made.

    `media_types`: those of the images' files.
    """

    name: str
    model: str
    weights_sha256: str
    precision: Format
    made_at: datetime
    data_sha256: str
    media_types: tuple[str, ...] = ()


def fit_calibration(logits: Floats, fake: Labels) -> Calibration:
    """Fit temperature and bias by minimising the negative log-likelihood.

    Both classes have the same total weight, so 0.5 means "as likely a fake as a real image", however many of each were
    collected. The targets are Platt's (1999), (n + 1) / (n + 2) and 1 / (n + 2), instead of 1 and 0. With 1 and 0, a
    model that separates the classes would get probabilities of exactly 0 and 1.

    Raises:
        CalibrationError: the fakes' logits are not higher than those of the real images.
    """
    fakes, reals = int(fake.sum()), int((~fake).sum())
    targets = np.where(fake, (fakes + 1) / (fakes + 2), 1 / (reals + 2))
    weights = np.where(fake, 0.5 / fakes, 0.5 / reals)
    slope, bias = fit_logistic(np.column_stack([logits, np.ones(len(logits))]), targets, weights).tolist()
    if slope <= 0:
        raise CalibrationError(
            "On these images the model's scores for fakes are not higher than for real images, so no threshold can "
            "separate them. Check the labels. If they are correct, the model cannot detect these generators."
        )
    return Calibration(1 / slope, bias)


def policy_for_target(scores: Scores, origin: Origin, target_fpr: float, max_miss_rate: float | None = None) -> Policy:
    """Make a policy with the lowest threshold whose false-positive rate has an upper bound of at most `target_fpr`.

    Args:
        scores: of images that the model was not trained on.
        origin: the policy's name, model and data.
        target_fpr: the highest false-positive rate that is allowed, between 0 and 1.
        max_miss_rate: if given, the policy has a band: an image is classified as REAL only below a probability that at
            most this share of the fakes lies below, and as INCONCLUSIVE from there to the threshold.

    Raises:
        CalibrationError, TooFewPhotographsError: see the functions of worker/calibration/thresholds.py.
    """
    _check_classes(scores.fake)
    calibration = fit_calibration(scores.logits, scores.fake)
    probabilities = calibration.of(scores)
    threshold = threshold_for_false_positives(probabilities, scores.fake, scores.groups, target_fpr)
    return _policy(scores, probabilities, origin, calibration, threshold, target_fpr, max_miss_rate)


def policy_by_youden(scores: Scores, origin: Origin, seed: int = 0, max_miss_rate: float | None = None) -> Policy:
    """Make a policy by Youden's J. Half of the groups choose the threshold; the other half measures its rates.

    Raises:
        CalibrationError, TooFewPhotographsError: as `policy_for_target`; or one half lacks a class.
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
    """Check, before the model runs on the images, that there are enough for such a policy, whatever their scores.

    Args:
        fake: (N,), the true labels.
        groups: (N,), each image's group.
        target_fpr: of `policy_for_target`; None for `policy_by_youden`.
        max_miss_rate: of either.
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
    """Choose half of the groups at random. Return (N,), true for their images."""
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
    missed = probabilities[measured.fake] < (threshold.value if band is None else band)
    fake_groups = measured.groups[measured.fake]
    evidence = Evidence(
        rule="youden" if target_fpr is None else "false_positive_rate",
        target_fpr=target_fpr,
        measured_fpr=threshold.false_positives / threshold.photographs,
        fpr_interval=(threshold.interval.low, threshold.interval.high),
        fpr_upper_bound=threshold.upper_bound,
        confidence=CONFIDENCE,
        max_miss_rate=max_miss_rate,
        missed_fakes=len(np.unique(fake_groups[missed])) / len(np.unique(fake_groups)),
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
