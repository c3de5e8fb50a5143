"""From a logit and a threshold to a verdict."""

from __future__ import annotations

import math

import pytest

from shared.errors import ErrorCode, JobError
from worker.model.verdicts.verdict import DecisionRule, decide


@pytest.mark.parametrize(
    ("logit", "threshold", "prediction", "confidence"),
    [
        (0.0, 0.5, "FAKE", 0.5),  # reaching the threshold is enough
        (-0.001, 0.5, "REAL", 0.50025),
        (2.0, 0.5, "FAKE", 0.880797),
        (2.0, 0.9, "REAL", 0.119203),  # a raised threshold: REAL although fake is likelier
        (800.0, 0.5, "FAKE", 1.0),
        (-800.0, 0.5, "REAL", 1.0),
    ],
)
def test_a_verdict(logit: float, threshold: float, prediction: str, confidence: float):
    verdict = decide(logit, DecisionRule(threshold))
    assert verdict.prediction == prediction
    assert verdict.confidence == pytest.approx(confidence, abs=1e-6)
    assert verdict.probability_fake == pytest.approx(confidence if prediction == "FAKE" else 1 - confidence, abs=1e-6)


@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf])
def test_no_verdict_without_a_number(logit: float):
    with pytest.raises(JobError, match="precision") as caught:
        decide(logit, DecisionRule(0.5))
    assert caught.value.code == ErrorCode.INTERNAL
