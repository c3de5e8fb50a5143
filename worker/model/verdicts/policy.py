"""Policies: a threshold that was chosen on an operator's own images, and the rates that were measured for it.

`distildire calibrate` writes a policy as a TOML file beside the card, `<models folder>/<MODEL>.policies/<name>.toml`.
`<name>.images.json` lists the images that the policy was made from. A policy is valid only for the weights and the
number format that it was made with: with others, the same probability means something else. Nothing here imports torch.
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
        raise ValueError(f"{DEFAULT!r} means that no policy is used: choose another name")
    return name


PolicyName = Annotated[Name, AfterValidator(_not_reserved)]


class PolicyError(ModelError):
    """The policy cannot be used."""


class _PolicySection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Evidence(_PolicySection):
    """How a policy's threshold was chosen, and its measured rates. Rates count groups of images, not images.

    `rule`: `false_positive_rate` is the lowest threshold whose rate has an upper bound of at most `target_fpr`;
    `youden` is the threshold with the best balanced accuracy. `measured_fpr`: the share of the groups of real images in
    which an image was classified as FAKE. `fpr_interval`, `fpr_upper_bound`: its exact two-sided interval and exact
    one-sided upper bound, with this `confidence`. `missed_fakes`: the share of the groups of fakes in which a fake was
    classified as REAL. `max_miss_rate`: the limit that was requested for it, if any. `data_sha256`: the digest of the
    images' digests, labels, generators and groups. `media_types`: those of the images' files; empty if not recorded.
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
    """When an image is classified as FAKE. All probabilities are calibrated: sigmoid(logit / temperature + bias).

    `threshold`: an image whose probability reaches it is FAKE. `inconclusive_from`: an image whose probability reaches
    this, but not the threshold, is INCONCLUSIVE; with None, it is REAL.
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
