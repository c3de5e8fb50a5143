"""From the student's logit to a verdict, which is evidence, not proof. Pure functions; nothing here imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import ErrorCode, JobError


@dataclass(frozen=True)
class DecisionRule:
    """How a logit becomes a verdict. The defaults are the rule of a model card, which has only a threshold.

    `threshold`: an image whose calibrated probability reaches it is FAKE. `temperature` and `bias`: the calibrated
    probability is sigmoid(logit / temperature + bias). `inconclusive_from`: an image whose probability reaches it but
    not the threshold is INCONCLUSIVE; with None, it is REAL.
    """

    threshold: float
    temperature: float = 1.0
    bias: float = 0.0
    inconclusive_from: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The predicted class of an image.

    `probability_fake`: calibrated, in [0, 1]. `confidence`: the probability of the predicted class; for INCONCLUSIVE,
    which only a rule with a band gives, the probability of the likelier class.
    """

    prediction: Literal["REAL", "FAKE", "INCONCLUSIVE"]
    confidence: float
    probability_fake: float


def decide(logit: float, rule: DecisionRule) -> Verdict:
    """Classify an image by a rule.

    Args:
        logit: the student's output for the image; higher means more likely fake.
        rule: of the model's card or of a policy.

    Raises:
        JobError: the logit is not finite.
    """
    probability = calibrated_probability(logit, rule.temperature, rule.bias)
    if probability >= rule.threshold:
        return Verdict("FAKE", probability, probability)
    if rule.inconclusive_from is not None and probability >= rule.inconclusive_from:
        return inconclusive(probability)
    return Verdict("REAL", 1 - probability, probability)


def inconclusive(probability: float) -> Verdict:
    """Return the verdict INCONCLUSIVE for an image of this calibrated probability."""
    return Verdict("INCONCLUSIVE", max(probability, 1 - probability), probability)


def calibrated_probability(logit: float, temperature: float = 1.0, bias: float = 0.0) -> float:
    """Return sigmoid(logit / temperature + bias).

    The calibration takes the logit, not the probability: from a logit of 37 on, the probability is 1 in float64, and
    larger logits could not be told apart.

    Raises:
        JobError: the logit is not finite. NaN would otherwise be classified as REAL.
    """
    if not math.isfinite(logit):
        raise JobError(
            ErrorCode.INTERNAL,
            f"The model returned {logit} instead of a number for this image. Run it in the precision fp32; if it still "
            "does, its weights are wrong.",
        )
    return sigmoid(logit / temperature + bias)


def sigmoid(x: float) -> float:
    """Return 1 / (1 + e^-x), without overflow at either end."""
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))


def sigmoids(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sigmoid of each number, (N,) -> (N,), equal to `sigmoid`'s to the last digit.

    NumPy's exp may differ from Python's in the last digit. An evaluation would then count an image that lies exactly on
    the threshold differently from the service.
    """
    return np.array([sigmoid(each) for each in x.tolist()], dtype=np.float64)
