"""How an image is called: by a policy, or without one by the threshold of the model's card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.domain import AppliedPolicy, Interval, Stability
from worker.imaging.content import Content, lacks_content
from worker.model.verdicts.decision import Verdict, verdict
from worker.model.verdicts.policy import Policy, judge


@dataclass(frozen=True)
class Ruling:
    """A verdict and by what it was called.

    `raw_probability_fake`: the model's own, while `called` has the one that the policy's calibration makes of it.
    `threshold`: what the latter must reach to be called FAKE. `stability`: if the image was also judged after changes.
    """

    called: Verdict
    raw_probability_fake: float
    threshold: float
    policy: AppliedPolicy | None
    stability: Stability | None = None

    @property
    def caveats(self) -> tuple[str, ...]:
        """What a reader must know of how the verdict was called."""
        if self.stability is None or not self.stability.flip_rate:
            return self._of_the_rule()
        changes = self.stability.passes - 1
        flipped = (
            f"Of {changes} small changes to the image {round(changes * self.stability.flip_rate)} moved it across the "
            "threshold: the verdict is not stable. That is no evidence of FAKE."
        )
        return (*self._of_the_rule(), flipped)

    def _of_the_rule(self) -> tuple[str, ...]:
        if self.policy is None:
            caveat = (
                f"No policy was chosen: the threshold {self.threshold} is the model's own. How often it calls "
                "photographs like yours FAKE is not known here."
            )
            return (caveat,)
        if self.called.prediction == "INCONCLUSIVE":
            return ("INCONCLUSIVE means that the model cannot tell by this policy; it is no evidence of FAKE.",)
        return ()


def rule(
    logit: float,
    threshold: float,
    policy: Policy | None,
    perturbed: Sequence[float] = (),
    *,
    content: Content | None = None,
) -> Ruling:
    """Call an image by a policy; where there is none, by the card's threshold.

    Args:
        logit: of the image, of "fake".
        threshold: the card's.
        policy: of the model, if one was chosen.
        perturbed: logits of the image after small changes. Where one of them lies across the threshold and the policy
            has a band, the image is INCONCLUSIVE.
        content: of the image, if it was measured. Where that is none to judge by and the policy has a band, the image
            is INCONCLUSIVE too.

    Raises:
        JobError: a logit is not finite, so nothing can be said.
    """
    plain = verdict(logit, threshold)
    called = _called(logit, plain, policy)
    limit = threshold if policy is None else policy.threshold
    others = [_called(each, verdict(each, threshold), policy).probability_fake for each in perturbed]
    stability = _stability(called.probability_fake, others, limit) if others else None
    doubtful = (stability and stability.flip_rate) or (content and lacks_content(content))
    if doubtful and policy and policy.inconclusive_from is not None:
        probability = called.probability_fake
        called = Verdict("INCONCLUSIVE", max(probability, 1 - probability), probability)
    applied = _applied(policy) if policy else None
    return Ruling(called, plain.probability_fake, limit, applied, stability)


def _called(logit: float, plain: Verdict, policy: Policy | None) -> Verdict:
    return plain if policy is None else judge(logit, policy)


def _stability(probability: float, others: Sequence[float], threshold: float) -> Stability:
    flips = sum((other >= threshold) != (probability >= threshold) for other in others)
    seen = [probability, *others]
    return Stability(flips / len(others), min(seen), max(seen), passes=len(seen))


def _applied(policy: Policy) -> AppliedPolicy:
    evidence = policy.evidence
    return AppliedPolicy(
        name=policy.name,
        threshold=policy.threshold,
        inconclusive_from=policy.inconclusive_from,
        temperature=policy.temperature,
        bias=policy.bias,
        measured_fpr=evidence.measured_fpr,
        fpr_interval=Interval(*evidence.fpr_interval, confidence=evidence.confidence),
        photographs=evidence.real_groups,
    )
