"""Policies: a threshold that was chosen on an operator's own images, and what was measured when it was.

A policy is a TOML file beside the card, `<models folder>/<MODEL>.policies/<name>.toml`, written by
`distildire calibrate`; `<name>.images.json` lists the images that it was made of. It holds for the weights and the
number format that it was made with, for no others: another model's probabilities mean something else. Free of torch.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from shared.domain import DEFAULT, POLICY_NAME
from worker.atomic_files import write_whole
from worker.model.cards.registry import BUNDLED, MODELS_DIR_VARIABLE, InstalledCard, ModelError
from worker.model.cards.schema import Format
from worker.model.cards.toml_writer import assignments
from worker.model.verdicts.decision import Verdict, sigmoid

Rule = Literal["false_positive_rate", "youden"]
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


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Evidence(_Section):
    """How a policy's threshold was chosen, and what was measured of it. Rates count photographs, not images.

    `rule`: `false_positive_rate`, the lowest threshold whose upper bound is at most `target_fpr`, or `youden`, the best
    sum of both classes' rates. `measured_fpr`: the share of the photographs of which an image was called FAKE, with its
    two-sided interval, and its one-sided upper bound, all exact, of that confidence. `missed_fakes`: the share of the
    fakes' photographs of which a fake was called REAL; `max_miss_rate`: the bound that was asked of it, if there is a
    band. `data_sha256`: the digest of the images' digests, labels, generators and groups. `media_types`: what their
    files were; empty where that was not recorded.
    """

    rule: Rule
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


class Policy(_Section):
    """When an image is called FAKE. All probabilities are calibrated ones: sigmoid(logit / temperature + bias).

    `threshold`: an image whose probability reaches it is called FAKE. `inconclusive_from`: an image whose probability
    reaches this and not the threshold is called INCONCLUSIVE; without it, REAL.
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


class _Images(BaseModel):
    """The images that the policy was made of whose evidence has this digest, each by the first digits of its own."""

    data_sha256: Sha256
    images: frozenset[str]


def judge(logit: float, policy: Policy) -> Verdict:
    """Call an image by a policy: evidence, not proof.

    Args:
        logit: of "fake", the student's.
        policy: of that model.

    Raises:
        ValueError: the logit is not finite; NaN would otherwise be called REAL.
    """
    calibrated = calibrated_probability(logit, policy.temperature, policy.bias)
    if calibrated >= policy.threshold:
        return Verdict("FAKE", calibrated, calibrated)
    if policy.inconclusive_from is not None and calibrated >= policy.inconclusive_from:
        return Verdict("INCONCLUSIVE", max(calibrated, 1 - calibrated), calibrated)
    return Verdict("REAL", 1 - calibrated, calibrated)


def calibrated_probability(logit: float, temperature: float, bias: float) -> float:
    """Return sigmoid(logit / temperature + bias).

    Of the logit, not of the probability: from a logit of 37 on the latter is 1 in float64, and all order is lost.
    """
    if not math.isfinite(logit):
        raise ValueError(f"{logit} is no logit")
    return sigmoid(logit / temperature + bias)


def load_policy(name: str, installed: InstalledCard, weights_sha256: str, precision: Format) -> Policy:
    """Return a model's policy of that name, for a detector with these weights in this number format.

    Raises:
        PolicyError: there is none, it cannot be read, or it was made with other weights or in another number format.
    """
    paths = _by_name(installed)
    if name not in paths:
        known = ", ".join(sorted(paths)) or "none"
        raise PolicyError(
            f"{installed.card.name} has no policy named {name!r}. There are: {known}. Make one with `distildire "
            f"calibrate`, or put its file into {_folder(installed.folders[0], installed.card.name)}."
        )
    return _fitting(paths[name], installed.card.name, weights_sha256, precision)


def load_policies(
    installed: InstalledCard, weights_sha256: str | None, precision: Format | None
) -> tuple[dict[str, Policy], tuple[str, ...]]:
    """Return the policies of a model that can be used, by their names, and of each other one why not.

    One that cannot be used is no reason for a worker to do nothing: it may be meant for others of the fleet.

    Args:
        installed: the model's card.
        weights_sha256: of the model; None where it is not known, and not compared.
        precision: in which it runs; None as well.
    """
    usable: dict[str, Policy] = {}
    problems = []
    for name, path in sorted(_by_name(installed).items()):
        try:
            usable[name] = _fitting(path, installed.card.name, weights_sha256, precision)
        except PolicyError as error:
            problems.append(error.message)
    return usable, tuple(problems)


def list_policies(installed: InstalledCard) -> list[Path]:
    """Return the files of a model's policies, those of the operator's folder before bundled ones."""
    folders = [_folder(folder, installed.card.name) for folder in installed.folders]
    # Names that begin with a dot are what systems leave beside files, or an editor's.
    return [path for folder in folders for path in sorted(folder.glob("[!.]*.toml"))]


def read_policy(path: Path) -> Policy:
    """Read one policy.

    Raises:
        PolicyError: the file is no TOML, or fields are missing, wrong or unknown; all of them are named.
    """
    try:
        return Policy.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'policy'}: {e['msg']}" for e in error.errors())
        raise PolicyError(f"The policy {path} is wrong: {faults}. Correct these fields, or calibrate anew.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"The policy {path} cannot be read: {error}. Correct or remove it.") from error


def images_of(policy: Policy, installed: InstalledCard) -> frozenset[str] | None:
    """Return the images that a model's policy was made of, by their `short_digests`; None where that is not known.

    Raises:
        PolicyError: the list beside the policy cannot be read.
    """
    place = _images_place(_by_name(installed)[policy.name])
    try:
        found = _Images.model_validate_json(place.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise PolicyError(
            f"{place} is no list of a policy's images. Put the one that `distildire calibrate` wrote back, or remove "
            "it: then nobody knows which images the policy was made of."
        ) from error
    return found.images if found.data_sha256 == policy.evidence.data_sha256 else None


def policy_place(name: str, installed: InstalledCard) -> Path:
    """Return where a new policy of a model is to be written.

    Raises:
        PolicyError: there is one already, or no folder of the operator's own to put it into.
    """
    if installed.folders[0] == BUNDLED:
        raise PolicyError(
            f"There is no folder for policies yet: set {MODELS_DIR_VARIABLE}, or --models-dir, to a folder of your own."
        )
    place = _folder(installed.folders[0], installed.card.name) / f"{name}.toml"
    if place.exists():
        raise PolicyError(f"There is a policy {place} already. Choose another name, or remove it first.")
    return place


def write_policy(policy: Policy, place: Path, images: Sequence[str] | None = None) -> None:
    """Write a policy's file and, before it, the list of its images.

    Args:
        policy: what is written.
        place: as `policy_place` returns it.
        images: which it was made of, by their `short_digests`; None where that is not known.

    Raises:
        PolicyError: it cannot be written.
        DiskFullError: there is no room for it.
    """
    fields = policy.model_dump(exclude_none=True)
    evidence = fields.pop("evidence")
    lines = [
        "# Made by `distildire calibrate`; docs/evaluation.md says what each field means.",
        *assignments(fields),
        "",
        "[evidence]",
        *assignments(evidence),
    ]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if images is not None:
            known = {"data_sha256": policy.evidence.data_sha256, "images": images}
            write_whole(_images_place(place), (json.dumps(known, indent=1) + "\n").encode())
        write_whole(place, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise PolicyError(
            f"{place} cannot be written: {error.strerror}. Nothing was left of it; calibrate again."
        ) from error


def _folder(models_dir: Path, model: str) -> Path:
    return models_dir / f"{model}.policies"


def _images_place(policy: Path) -> Path:
    return policy.with_name(f"{policy.stem}.images.json")


def _by_name(installed: InstalledCard) -> dict[str, Path]:
    return {path.stem: path for path in reversed(list_policies(installed))}


def _fitting(path: Path, model: str, weights_sha256: str | None, precision: Format | None) -> Policy:
    """Read a policy, and refuse one that was renamed, copied from another model, or made for other numbers."""
    policy = read_policy(path)
    if (policy.name, policy.model) != (path.stem, model):
        raise PolicyError(
            f"{path} holds the policy {policy.name!r} of {policy.model}, not {path.stem!r} of {model}: put it where it "
            "belongs."
        )
    if weights_sha256 not in {None, policy.weights_sha256}:
        raise PolicyError(
            f"The policy {path} was made for the weights {policy.weights_sha256}, but {model} has {weights_sha256}: "
            "its rates say nothing of these. Calibrate anew."
        )
    if precision not in {None, policy.precision}:
        raise PolicyError(
            f"The policy {path} was made in {policy.precision}, but the model runs in {precision}, which moves "
            f"probabilities. Set DISTILDIRE_PRECISION={policy.precision}, or calibrate anew in {precision}."
        )
    return policy
