"""Policies: a threshold that was chosen on an operator's own images, and what was measured when it was.

A policy is a TOML file beside the card, `<models folder>/<MODEL>.policies/<name>.toml`, written by
`distildire calibrate`; `<name>.images.json` lists the images that it was made of. It holds for the weights and the
number format that it was made with, for no others: another model's probabilities mean something else. Free of torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    model_validator,
)

from shared.domain import DEFAULT, POLICY_NAME
from worker.model.cards.registry import ModelError
from worker.model.cards.schema import Format
from worker.model.verdicts.verdict import DecisionRule

ThresholdMethod = Literal["false_positive_rate", "youden"]
Name = Annotated[str, Field(pattern=POLICY_NAME)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]


def _not_reserved(name: str) -> str:
    if name == DEFAULT:
        raise ValueError(f"{DEFAULT!r} stands for no policy: choose another name")
    return name


PolicyName = Annotated[Name, AfterValidator(_not_reserved)]


class PolicyError(ModelError):
    """The policy cannot be used."""


class _PolicySection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Evidence(_PolicySection):
    """How a policy's threshold was chosen, and what was measured of it. Rates count photographs, not images.

    `rule`: `false_positive_rate`, the lowest threshold whose upper bound is at most `target_fpr`, or `youden`, the best
    sum of both classes' rates. `measured_fpr`: the share of the photographs of which an image was called FAKE, with its
    two-sided interval, and its one-sided upper bound, all exact, of that confidence. `missed_fakes`: the share of the
    fakes' photographs of which a fake was called REAL; `max_miss_rate`: the bound that was asked of it, if there is a
    band. `data_sha256`: the digest of the images' digests, labels, generators and groups. `media_types`: what their
    files were; empty where that was not recorded.
    """

    rule: ThresholdMethod
    target_fpr: Share | None = None
    measured_fpr: Share
    fpr_interval: tuple[Share, Share]
    fpr_upper_bound: Share
    confidence: Share
    max_miss_rate: Share | None = None
    missed_fakes: Share
    reals: PositiveInt
    real_groups: PositiveInt
    fakes: PositiveInt
    fake_groups: PositiveInt
    data_sha256: Sha256
    media_types: tuple[str, ...] = ()


class Policy(_PolicySection):
    """When an image is classified as FAKE. All probabilities are calibrated ones: sigmoid(logit / temperature + bias).

    `threshold`: an image whose probability reaches it is FAKE. `inconclusive_from`: an image whose probability
    reaches this and not the threshold is INCONCLUSIVE; without it, REAL.
    """

    name: PolicyName
    model: Name
    weights_sha256: Sha256
    precision: Format
    made_at: AwareDatetime
    threshold: Share
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    bias: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    inconclusive_from: Share | None = None
    evidence: Evidence

    @model_validator(mode="after")
    def _band_is_below_the_threshold(self) -> Self:
        if self.inconclusive_from is not None and self.inconclusive_from >= self.threshold:
            raise ValueError("inconclusive_from must be below threshold")
        return self

    @property
    def decision_rule(self) -> DecisionRule:
        """The policy as a rule for `decide`."""
        return DecisionRule(self.threshold, self.temperature, self.bias, self.inconclusive_from)
