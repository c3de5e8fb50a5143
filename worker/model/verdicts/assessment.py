"""What a service reports of an image: the verdict, the rule that gave it, and how stable it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.domain import AppliedPolicy, ConfidenceInterval, Stability
from worker.imaging.content import Content, lacks_content
from worker.model.verdicts.policy import Policy
from worker.model.verdicts.verdict import (
    DecisionRule,
    Verdict,
    calibrated_probability,
    decide,
    inconclusive,
)


@dataclass(frozen=True)
class Assessment:
    """A verdict and the rule that gave it.

    `raw_probability_fake`: the model's own probability; the verdict has the calibrated one. `threshold`: what the
    calibrated probability must reach to be FAKE. `stability`: None unless small changes of the image were classified
    too.
    """

    verdict: Verdict
    raw_probability_fake: float
    threshold: float
    policy: AppliedPolicy | None
    stability: Stability | None = None

    @property
    def caveats(self) -> tuple[str, ...]:
        """What a reader of the verdict must know about it."""
        if self.stability is None or not self.stability.flip_rate:
            return self._about_the_rule()
        changes = self.stability.passes - 1
        flipped = (
            f"Of {changes} small changes to the image {round(changes * self.stability.flip_rate)} moved it across the "
            "threshold: the verdict is not stable. That is no evidence of FAKE."
        )
        return (*self._about_the_rule(), flipped)

    def _about_the_rule(self) -> tuple[str, ...]:
        if self.policy is None:
            caveat = (
                f"No policy was chosen: the threshold {self.threshold} is the model's own. How often it classifies "
                "real images like yours as FAKE is not known here."
            )
            return (caveat,)
        if self.verdict.prediction == "INCONCLUSIVE":
            return ("INCONCLUSIVE means that the model cannot tell by this policy; it is no evidence of FAKE.",)
        return ()


def assess(
    logit: float,
    card_threshold: float,
    policy: Policy | None,
    perturbed: Sequence[float] = (),
    *,
    content: Content | None = None,
) -> Assessment:
    """Classify an image by a policy; without one, by the card's threshold.

    Args:
        logit: the student's output for the image.
        card_threshold: the threshold of the model's card.
        policy: the chosen policy, if any.
        perturbed: logits of the image after small changes. If one of them lies on the other side of the threshold and
            the policy has a band, the image is INCONCLUSIVE.
        content: of the image, if it was measured. If the image lacks content and the policy has a band, the image is
            INCONCLUSIVE too.

    Raises:
        JobError: a logit is not finite.
    """
    rule = DecisionRule(card_threshold) if policy is None else policy.decision_rule
    verdict = decide(logit, rule)
    stability = _stability(verdict.probability_fake, perturbed, rule) if perturbed else None
    doubtful = (stability and stability.flip_rate) or (content and lacks_content(content))
    if doubtful and rule.inconclusive_from is not None:
        verdict = inconclusive(verdict.probability_fake)
    applied = _applied(policy) if policy else None
    return Assessment(verdict, calibrated_probability(logit), rule.threshold, applied, stability)


def _stability(probability: float, perturbed: Sequence[float], rule: DecisionRule) -> Stability:
    others = [calibrated_probability(logit, rule.temperature, rule.bias) for logit in perturbed]
    flips = sum((other >= rule.threshold) != (probability >= rule.threshold) for other in others)
    every = [probability, *others]
    return Stability(flips / len(others), min(every), max(every), passes=len(every))


def _applied(policy: Policy) -> AppliedPolicy:
    evidence = policy.evidence
    return AppliedPolicy(
        name=policy.name,
        threshold=policy.threshold,
        inconclusive_from=policy.inconclusive_from,
        temperature=policy.temperature,
        bias=policy.bias,
        measured_fpr=evidence.measured_fpr,
        fpr_interval=ConfidenceInterval(*evidence.fpr_interval, confidence=evidence.confidence),
        photographs=evidence.real_groups,
    )
