"""How an image is called: by a policy, or without one by the threshold of the model's card."""

from __future__ import annotations

from dataclasses import dataclass

from shared.jobs import AppliedPolicy, Interval
from worker.model.decision import Verdict, verdict
from worker.model.policy import Policy, judge


@dataclass(frozen=True)
class Ruling:
    """A verdict and by what it was called.

    `raw_probability_fake`: the model's own, while `called` has the one that the policy's calibration makes of it.
    `threshold`: what the latter must reach to be called FAKE.
    """

    called: Verdict
    raw_probability_fake: float
    threshold: float
    policy: AppliedPolicy | None

    @property
    def caveats(self) -> tuple[str, ...]:
        """What a reader must know of how the verdict was called."""
        if self.policy is None:
            caveat = (
                f"No policy was chosen: the threshold {self.threshold:g} is the model's own. How often it calls "
                "photographs like yours FAKE is not known here."
            )
            return (caveat,)
        if self.called.prediction == "INCONCLUSIVE":
            return ("INCONCLUSIVE means that the model cannot tell by this policy; it is no evidence of FAKE.",)
        return ()


def rule(logit: float, threshold: float, policy: Policy | None) -> Ruling:
    """Call an image by a policy; where there is none, by the card's threshold.

    Raises:
        JobError: the logit is not finite, so nothing can be said.
    """
    plain = verdict(logit, threshold)
    if policy is None:
        return Ruling(plain, plain.probability_fake, threshold, None)
    return Ruling(judge(plain.probability_fake, policy), plain.probability_fake, policy.threshold, _applied(policy))


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
