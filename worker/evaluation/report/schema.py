"""The report of an evaluation, as it is written to JSON; docs/evaluation.md says what each field means."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from shared.domain import ModelIdentity
from worker.evaluation.curves import Curves, Points
from worker.evaluation.estimates import Estimate, Estimates, HeldOutGenerator

SCHEMA = 3
"""Raised when a field changes its meaning or goes away."""


@dataclass(frozen=True)
class PolicyUsed:
    """The policy that chose the threshold, and the shares of both classes that its band leaves open.

    `seen_in_calibration`: how many of these images it was made of; None where that is not known.
    """

    name: str
    temperature: float
    bias: float
    inconclusive_from: float | None
    inconclusive_reals: Estimate
    inconclusive_fakes: Estimate
    seen_in_calibration: int | None


@dataclass(frozen=True)
class SkippedFile:
    """A file that was skipped, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Data:
    """The images: where from, which split, their digest, and how many of each generator.

    `seen_in_training`, `seen_in_validation`: how many the model was trained on, and how many chose its best epoch;
    None where that is not known.
    """

    source: str
    split: str
    sha256: str
    seen_in_training: int | None
    seen_in_validation: int | None
    generators: dict[str, int]
    skipped: list[SkippedFile]


@dataclass(frozen=True)
class Controls:
    """Whether the detector sees what it claims. Each is an average precision on the same images.

    `chance`: labels shuffled by group. `file_statistics`: the file without its pixels; `labels_leak`: whether
    that is well above chance, so that no figure can be trusted. `ablations`: the model without a part of its input.
    `others`: other models on the same images.
    """

    chance: Estimate
    file_statistics: Estimate
    labels_leak: bool
    ablations: dict[str, Estimates]
    others: dict[str, Estimates]


@dataclass(frozen=True)
class DireError:
    """DIRE's reconstruction error as the score, without a classifier: the smaller, the more fake."""

    average_precision: Estimate
    roc_auc: Estimate


@dataclass(frozen=True)
class FormatCell:
    """All images as stored or as JPEG, with one resize history: the shares that are classified as FAKE."""

    format: str
    history: str
    reals_called_fake: Estimate
    fakes_called_fake: Estimate


@dataclass(frozen=True)
class FormatPair:
    """Average precision where the real images have one format and the fakes another, with one resize history."""

    reals: str
    fakes: str
    history: str
    average_precision: Estimate


@dataclass(frozen=True)
class FormatControl:
    """Whether verdicts follow the file format."""

    cells: list[FormatCell]
    pairs: list[FormatPair]


@dataclass(frozen=True)
class Report:
    """One evaluation. Parts that were not asked for are empty or None."""

    schema: int
    made_at: str
    seconds: float
    confidence: float
    resamples: int
    seed: int
    model: ModelIdentity
    policy: PolicyUsed | None
    data: Data
    overall: Estimates
    curves: Curves
    generators: dict[str, Estimates]
    generators_roc: dict[str, Points]
    left_out: dict[str, HeldOutGenerator]
    robustness: dict[str, Estimates]
    controls: Controls | None
    formats: FormatControl | None
    dire: DireError | None


def report_json(report: Report) -> str:
    """Return the report as a JSON document."""
    return json.dumps(asdict(report), indent=1, allow_nan=False) + "\n"
