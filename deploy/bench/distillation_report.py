"""The report of a distillation experiment: means with intervals, and which differences are not shown.

There are two independent uncertainties: the results of other seeds (Student's t interval over the seeds), and the
results of the same students on other images (bootstrap by source image).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from deploy.bench.distillation import Arm, Experiment, Outcome, Speed, outcomes, student_speeds
from deploy.bench.model import describe_machine
from shared.percentages import decimal
from worker.datasets.dataset import Dataset, read_dataset
from worker.datasets.digests import data_sha256
from worker.evaluation.estimates import Resampling
from worker.metrics.intervals import EstimateInterval, grouped_bootstrap, mean_interval
from worker.metrics.ranking import Floats, Labels, area_under_precision, rank
from worker.metrics.scores import Names
from worker.model.cards.registry import find_card
from worker.model.loading import choose_device
from worker.training.export.report import described

NOTHING_SHOWN = "no difference can be shown"


@dataclass(frozen=True)
class Mean:
    """A mean over the seeds, with its interval over seeds and, for average precision, its interval over images."""

    value: float
    seeds: EstimateInterval
    photographs: EstimateInterval

    @property
    def differs(self) -> bool:
        """Whether a difference is shown: neither interval contains 0, and both are known."""
        return all(interval.low > 0 or interval.high < 0 for interval in (self.seeds, self.photographs))


@dataclass(frozen=True)
class ArmResult:
    """One arm on the test split. `gain`: its average precision minus that without a teacher, seed by seed."""

    arm: Arm
    average_precision: Mean
    roc_auc: Mean
    gain: Mean


@dataclass(frozen=True)
class Findings:
    """The results of an experiment: `runs` in the order in which they were made, `speeds` by backbone."""

    experiment: Experiment
    dataset: Dataset
    runs: tuple[Outcome, ...]
    results: list[ArmResult]
    speeds: dict[str, Speed]
    resampling: Resampling
    seconds: float

    def document(self) -> dict[str, Any]:
        """Return all results as a JSON document. `seconds` covers only this call, which may have reused runs."""
        return {
            "schema": 1,
            "machine": describe_machine(),
            "versions": {name: version(name) for name in ("torch", "torchvision")},
            "seconds": round(self.seconds, 1),
            "adm": self.experiment.adm,
            "recipe": self.experiment.recipe.model_dump(mode="json"),
            "data": described(self.dataset) | {"sha256": data_sha256(self.dataset.images)},
            "confidence": self.resampling.confidence,
            "resamples": self.resampling.resamples,
            "seeds": self.experiment.seeds,
            "arms": [as_document(result, self.speeds) for result in self.results],
            "runs": [
                {name: value for name, value in asdict(run).items() if name != "probabilities"} for run in self.runs
            ],
        }


def compare(experiment: Experiment, resampling: Resampling | None = None) -> Findings:
    """Train what is not trained yet, score everything on the split `test`, and time the students.

    Raises:
        DistildireError: what is wrong, with its remedy.
    """
    began, resampling = time.monotonic(), resampling or Resampling()
    runs = tuple(outcomes(experiment))
    dataset = read_dataset(experiment.data)
    test = dataset.of("test")
    fake, groups = np.array([image.fake for image in test]), np.array([image.group for image in test], dtype=np.str_)
    side = find_card(experiment.adm, experiment.models_dir).card.image_size
    backbones = dict.fromkeys(arm.backbone for arm in experiment.arms)
    speeds = student_speeds(experiment.recipe, list(backbones), side, choose_device(experiment.device))
    found = results(runs, fake, groups, resampling)
    return Findings(experiment, dataset, runs, found, speeds, resampling, time.monotonic() - began)


def results(runs: Sequence[Outcome], fake: Labels, groups: Names, resampling: Resampling) -> list[ArmResult]:
    """Summarise the runs by arm, in the order in which the arms first appear; all are compared with the first.

    Args:
        runs: for every arm the same seeds, in the same order.
        fake: (N,), the labels of the test split.
        groups: (N,), the source image of each image.
        resampling: how the bootstrap resamples the images.
    """
    by_arm: dict[Arm, list[Outcome]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, []).append(run)
    photographs = _over_photographs(list(by_arm.values()), fake, groups, resampling)
    first = _values(next(iter(by_arm.values())), "average_precision")
    return [
        ArmResult(
            arm,
            _bounded(_values(seeds, "average_precision"), resampling.confidence, own),
            _bounded(_values(seeds, "roc_auc"), resampling.confidence, EstimateInterval(np.nan, np.nan)),
            _mean(_values(seeds, "average_precision") - first, resampling.confidence, gain),
        )
        for (arm, seeds), (own, gain) in zip(by_arm.items(), photographs, strict=True)
    ]


def sentence(result: ArmResult) -> str:
    """Return a sentence about the effect of the teacher."""
    gain, sees = result.gain, {"image": "the image", "dire": "the DIRE image"}[result.arm.sees]
    verdict = f"{'better' if gain.value > 0 else 'worse'} than without" if gain.differs else NOTHING_SHOWN
    return (
        f"Teacher sees {sees}, λ {result.arm.weight:g}: {verdict} ({gain.value:+.3f} AP; over seeds "
        f"{interval_text(gain.seeds, sign='+')}, over images {interval_text(gain.photographs, sign='+')})."
    )


def interval_text(interval: EstimateInterval, sign: str = "") -> str:
    """Return an interval to three decimals, or a dash where it cannot be estimated."""
    if np.isnan(interval.low):
        return "–"
    low, high = (f"{end:{sign}.3f}" if sign else decimal(end) for end in (interval.low, interval.high))
    return f"{low} … {high}"


def as_document(result: ArmResult, speeds: Mapping[str, Speed]) -> dict[str, Any]:
    """Return an arm for the JSON file; intervals that cannot be estimated are null."""
    arm, speed = result.arm, speeds.get(result.arm.backbone)
    teacher = {"weight": arm.weight, "sees": arm.sees} if arm.weight else None
    fields = {name: _mean_document(getattr(result, name)) for name in ("average_precision", "roc_auc", "gain")}
    alone = {"milliseconds": speed.milliseconds, "parameters": speed.parameters} if speed else None
    return {"backbone": arm.backbone, "teacher": teacher, **fields, "differs": result.gain.differs, "student": alone}


def _over_photographs(
    arms: Sequence[Sequence[Outcome]], fake: Labels, groups: Names, resampling: Resampling
) -> Iterator[tuple[EstimateInterval, EstimateInterval]]:
    """Return for each arm the intervals of its mean average precision and of its gain, on the same draws."""

    def means_and_gains(weights: Floats) -> Floats:
        means = np.stack(
            [
                np.mean([area_under_precision(rank(run.probabilities, fake, weights)) for run in runs], axis=0)
                for runs in arms
            ]
        )
        return np.concatenate([means, means - means[0]])

    found = grouped_bootstrap(
        means_and_gains,
        groups,
        resamples=resampling.resamples,
        seed=resampling.seed,
        confidence=resampling.confidence,
    )
    return zip(found[: len(arms)], found[len(arms) :], strict=True)


def _values(runs: Sequence[Outcome], name: str) -> Floats:
    return np.array([getattr(run, name) for run in runs])


def _mean(values: Floats, confidence: float, photographs: EstimateInterval) -> Mean:
    return Mean(float(values.mean()), mean_interval(values, confidence), photographs)


def _bounded(values: Floats, confidence: float, photographs: EstimateInterval) -> Mean:
    """The mean of figures that lie between 0 and 1, as Student's interval does not know."""
    mean = _mean(values, confidence, photographs)
    low, high = np.clip([mean.seeds.low, mean.seeds.high], 0, 1).tolist()
    return Mean(mean.value, EstimateInterval(low, high), photographs)


def _mean_document(mean: Mean) -> dict[str, Any]:
    return {"mean": mean.value, "seeds": _ends(mean.seeds), "photographs": _ends(mean.photographs)}


def _ends(interval: EstimateInterval) -> list[float] | None:
    return None if np.isnan(interval.low) else [interval.low, interval.high]
