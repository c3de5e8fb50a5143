"""From the student's number to a verdict, by a policy or without one."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from shared.errors import JobError
from worker.model.policy import Evidence, Policy
from worker.model.ruling import rule

POLICY = Policy(
    name="strict",
    model="TEST-MODEL",
    weights_sha256="ab" * 32,
    precision="fp32",
    made_at=datetime(2026, 11, 22, 8, 0, tzinfo=UTC),
    threshold=0.9,
    temperature=2.0,
    bias=-0.5,
    inconclusive_from=0.6,
    evidence=Evidence(
        rule="youden",
        measured_fpr=0.01,
        fpr_interval=(0.001, 0.03),
        fpr_upper_bound=0.028,
        confidence=0.95,
        missed_fakes=0.1,
        reals=400,
        real_groups=300,
        fakes=300,
        fake_groups=300,
        data_sha256="1" * 64,
    ),
)


def test_without_a_policy_the_cards_threshold_calls_and_says_that_nothing_is_known_of_it():
    ruling = rule(2.0, 0.7, None)
    assert (ruling.called.prediction, ruling.threshold, ruling.policy) == ("FAKE", 0.7, None)
    assert ruling.raw_probability_fake == ruling.called.probability_fake == 1 / (1 + math.exp(-2))
    (caveat,) = ruling.caveats
    assert "the threshold 0.7 is the model's own" in caveat


def test_a_policy_calls_the_calibrated_probability_and_the_raw_one_is_kept():
    ruling = rule(2.0, 0.7, POLICY)
    assert ruling.called.probability_fake == pytest.approx(1 / (1 + math.exp(-(2 / 2 - 0.5))))
    assert ruling.raw_probability_fake == 1 / (1 + math.exp(-2))
    assert (ruling.called.prediction, ruling.threshold) == ("INCONCLUSIVE", 0.9)
    assert ruling.caveats == (
        "INCONCLUSIVE means that the model cannot tell by this policy; it is no evidence of FAKE.",
    )


def test_the_ruling_says_what_was_measured_of_the_policy():
    ruling = rule(9.0, 0.7, POLICY)
    assert (ruling.called.prediction, ruling.caveats) == ("FAKE", ())
    applied = ruling.policy
    assert applied is not None
    assert (applied.name, applied.threshold, applied.inconclusive_from) == ("strict", 0.9, 0.6)
    assert (applied.temperature, applied.bias, applied.measured_fpr) == (2.0, -0.5, 0.01)
    interval = applied.fpr_interval
    assert (interval.low, interval.high, interval.confidence, applied.photographs) == (0.001, 0.03, 0.95, 300)


@pytest.mark.parametrize("policy", [None, POLICY])
def test_nothing_is_said_of_what_is_no_number(policy: Policy | None):
    with pytest.raises(JobError):
        rule(math.nan, 0.5, policy)


@pytest.mark.parametrize(
    ("perturbed", "flip_rate", "prediction"),
    [
        ([9.0, 8.0, 7.5, 9.5], 0.0, "FAKE"),
        ([9.0, 8.0, 7.5, 2.0], 0.25, "INCONCLUSIVE"),
        ([-9.0, -8.0, 1.0, 2.0], 1.0, "INCONCLUSIVE"),
    ],
)
def test_under_a_policy_with_a_band_a_flip_is_inconclusive(perturbed: list[float], flip_rate: float, prediction: str):
    ruling = rule(9.0, 0.7, POLICY, perturbed)
    assert ruling.stability is not None
    assert (ruling.called.prediction, ruling.stability.flip_rate) == (prediction, flip_rate)
    assert ruling.called.probability_fake == pytest.approx(1 / (1 + math.exp(-4)))  # the image's own, as before
    flips = [caveat for caveat in ruling.caveats if "Instability" in caveat or "not stable" in caveat]
    assert len(flips) == (1 if flip_rate else 0)
    assert all("no evidence of FAKE" in caveat for caveat in flips)


@pytest.mark.parametrize("policy", [None, POLICY.model_copy(update={"inconclusive_from": None})])
def test_without_a_band_a_flip_is_said_and_changes_nothing(policy: Policy | None):
    ruling = rule(-3.0, 0.7, policy, [9.0, -4.0])
    assert ruling.stability is not None
    assert (ruling.called.prediction, ruling.stability.flip_rate, ruling.stability.passes) == ("REAL", 0.5, 3)
    assert "Of 2 small changes to the image 1 moved it across the threshold" in ruling.caveats[-1]


def test_stability_tells_the_range_of_the_calibrated_probability():
    stability = rule(0.0, 0.7, POLICY, [1.0, -1.0]).stability
    assert stability is not None
    assert stability.probability_min == pytest.approx(1 / (1 + math.exp(1)))
    assert stability.probability_max == pytest.approx(1 / (1 + math.exp(0)))
    assert stability.flip_rate == 0.0
    assert rule(0.0, 0.7, POLICY).stability is None


def test_nothing_is_said_where_a_changed_image_has_no_number():
    with pytest.raises(JobError):
        rule(1.0, 0.5, POLICY, [1.0, math.inf])
