"""From the student's number to a verdict: evidence, not proof."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from shared.errors import ErrorCode, JobError


@dataclass(frozen=True)
class Verdict:
    """`probability_fake` in [0, 1], and `confidence`, the probability of the class that was called.

    INCONCLUSIVE is called only by a policy that has a band for it (worker/model/verdicts/policy.py); its confidence is
    the probability of the likelier class.
    """

    prediction: Literal["REAL", "FAKE", "INCONCLUSIVE"]
    confidence: float
    probability_fake: float


def verdict(logit: float, threshold: float) -> Verdict:
    """Call an image FAKE if sigmoid(logit) reaches the threshold.

    Raises:
        JobError: the logit is not finite, so nothing can be said (NaN would otherwise be called REAL).
    """
    if not math.isfinite(logit):
        raise JobError(
            ErrorCode.INTERNAL,
            f"The model gave {logit} instead of a number for this image. Run it in precision fp32; if that gives the "
            "same, its weights are wrong.",
        )
    probability = sigmoid(logit)
    if probability >= threshold:
        return Verdict("FAKE", probability, probability)
    return Verdict("REAL", 1 - probability, probability)


def sigmoid(logit: float) -> float:
    """Return 1 / (1 + e^-logit), without overflow at either end."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))
