"""What a service says of an image, by a policy or without one."""

from __future__ import annotations

import math

import pytest

from shared.errors import JobError
from tests.support.policies import STRICT
from worker.imaging.content import Content
from worker.model.verdicts.assessment import assess
from worker.model.verdicts.policy import Policy


def test_without_a_policy_the_cards_threshold_calls_and_says_that_nothing_is_known_of_it():
    found = assess(2.0, 0.7, None)
    assert (found.verdict.prediction, found.threshold, found.policy) == ("FAKE", 0.7, None)
    assert found.raw_probability_fake == found.verdict.probability_fake == 1 / (1 + math.exp(-2))
    (caveat,) = found.caveats
    assert "the threshold 0.7 is the model's own" in caveat


def test_a_policy_calls_the_calibrated_probability_and_the_raw_one_is_kept():
    found = assess(2.0, 0.7, STRICT)
    assert found.verdict.probability_fake == pytest.approx(1 / (1 + math.exp(-(2 / 2 - 0.5))))
    assert found.raw_probability_fake == 1 / (1 + math.exp(-2))
    assert (found.verdict.prediction, found.threshold) == ("INCONCLUSIVE", 0.8)
    assert found.caveats == (
        "INCONCLUSIVE means that the model cannot tell by this policy; it is no evidence of FAKE.",
    )


def test_the_assessment_says_what_was_measured_of_the_policy():
    found = assess(9.0, 0.7, STRICT)
    assert (found.verdict.prediction, found.caveats) == ("FAKE", ())
    applied = found.policy
    assert applied is not None
    assert (applied.name, applied.threshold, applied.inconclusive_from) == ("strict", 0.8, 0.3)
    assert (applied.temperature, applied.bias, applied.measured_fpr) == (2.0, -0.5, 0.004)
    interval = applied.fpr_interval
    assert (interval.low, interval.high, interval.confidence, applied.photographs) == (0.001, 0.012, 0.95, 300)


@pytest.mark.parametrize("policy", [None, STRICT])
def test_nothing_is_said_of_what_is_no_number(policy: Policy | None):
    with pytest.raises(JobError):
        assess(math.nan, 0.5, policy)


@pytest.mark.parametrize(
    ("perturbed", "flip_rate", "prediction"),
    [
        ([9.0, 8.0, 7.5, 9.5], 0.0, "FAKE"),
        ([9.0, 8.0, 7.5, 2.0], 0.25, "INCONCLUSIVE"),
        ([-9.0, -8.0, 1.0, 2.0], 1.0, "INCONCLUSIVE"),
    ],
)
def test_under_a_policy_with_a_band_a_flip_is_inconclusive(perturbed: list[float], flip_rate: float, prediction: str):
    found = assess(9.0, 0.7, STRICT, perturbed)
    assert found.stability is not None
    assert (found.verdict.prediction, found.stability.flip_rate) == (prediction, flip_rate)
    assert found.verdict.probability_fake == pytest.approx(1 / (1 + math.exp(-4)))  # the image's own, as before
    assert found.verdict.confidence == found.verdict.probability_fake  # of the likelier class
    flips = [caveat for caveat in found.caveats if "Instability" in caveat or "not stable" in caveat]
    assert len(flips) == (1 if flip_rate else 0)
    assert all("no evidence of FAKE" in caveat for caveat in flips)


def test_a_flip_of_what_is_likelier_real_leaves_it_the_confidence_of_real():
    found = assess(-9.0, 0.7, STRICT, [9.0])
    assert (found.verdict.prediction, found.verdict.confidence) == (
        "INCONCLUSIVE",
        1 - found.verdict.probability_fake,
    )
    assert found.verdict.confidence > 0.9


@pytest.mark.parametrize("policy", [None, STRICT.model_copy(update={"inconclusive_from": None})])
def test_without_a_band_a_flip_is_said_and_changes_nothing(policy: Policy | None):
    found = assess(-3.0, 0.7, policy, [9.0, -4.0])
    assert found.stability is not None
    assert (found.verdict.prediction, found.stability.flip_rate, found.stability.passes) == (
        "REAL",
        0.5,
        3,
    )
    assert "Of 2 small changes to the image 1 moved it across the threshold" in found.caveats[-1]


@pytest.mark.parametrize(
    ("logit", "perturbed", "flips"),
    [
        (0.0, -1e-9, True),  # at the threshold is FAKE, just below it is not
        (-1e-9, 0.0, True),
        (0.0, 0.0, False),
        (0.0, 1.0, False),
        (1.0, 0.0, False),
        (-1.0, -1e-9, False),
    ],
)
def test_what_reaches_the_threshold_exactly_is_on_its_upper_side(logit: float, perturbed: float, flips: bool):
    stability = assess(logit, 0.5, None, [perturbed]).stability
    assert stability is not None
    assert stability.flip_rate == flips


def test_stability_tells_the_range_of_the_calibrated_probability():
    stability = assess(0.0, 0.7, STRICT, [1.0, -1.0]).stability
    assert stability is not None
    assert stability.probability_min == pytest.approx(1 / (1 + math.exp(1)))
    assert stability.probability_max == pytest.approx(1 / (1 + math.exp(0)))
    assert stability.flip_rate == 0.0
    assert assess(0.0, 0.7, STRICT).stability is None


def test_nothing_is_said_where_a_changed_image_has_no_number():
    with pytest.raises(JobError):
        assess(1.0, 0.5, STRICT, [1.0, math.inf])


BLANK = Content(side=256, entropy=0.0, relief=0.0, distinct_share=0.0)
FULL = Content(side=256, entropy=6.5, relief=40.0, distinct_share=0.8)


@pytest.mark.parametrize("logit", [-9.0, 0.0, 9.0])
def test_under_a_policy_with_a_band_an_image_without_content_is_inconclusive(logit: float):
    found = assess(logit, 0.7, STRICT, content=BLANK)
    probability = 1 / (1 + math.exp(0.5 - logit / 2))
    assert found.verdict.prediction == "INCONCLUSIVE"
    assert found.verdict.probability_fake == pytest.approx(probability)
    assert found.verdict.confidence == pytest.approx(max(probability, 1 - probability))
    assert found.stability is None
    assert "no evidence of FAKE" in found.caveats[0]
    assert assess(logit, 0.7, STRICT, [logit], content=BLANK).verdict.prediction == "INCONCLUSIVE"


@pytest.mark.parametrize("policy", [None, STRICT.model_copy(update={"inconclusive_from": None})])
@pytest.mark.parametrize(("logit", "prediction"), [(-9.0, "REAL"), (9.0, "FAKE")])
def test_without_a_band_an_image_without_content_keeps_its_verdict(
    policy: Policy | None, logit: float, prediction: str
):
    assert assess(logit, 0.7, policy, content=BLANK).verdict.prediction == prediction


@pytest.mark.parametrize(("logit", "prediction"), [(-9.0, "REAL"), (9.0, "FAKE")])
def test_an_image_with_content_is_called_by_its_probability(logit: float, prediction: str):
    assert assess(logit, 0.7, STRICT, content=FULL).verdict.prediction == prediction
