"""The steps of an evaluation: score the images, compare models, ablate inputs, corrupt images, and estimate."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import compress
from typing import Literal, get_args

import numpy as np

from shared.errors import DistildireError
from worker.calibration.fitting import Calibration
from worker.datasets.corruptions import AS_IT_IS, AS_STORED, Change, format_conversions, robustness_corruptions
from worker.datasets.digests import data_sha256
from worker.datasets.formats import Skipped
from worker.datasets.labelled_image import LabelledImage
from worker.evaluation.batch_cache import BatchCache
from worker.evaluation.curves import curves, roc
from worker.evaluation.estimates import (
    Estimate,
    Estimates,
    Resampling,
    chance_average_precision,
    estimates_of,
    held_out_generators,
    labels_leak,
)
from worker.evaluation.file_baseline import probabilities_by_file
from worker.evaluation.known_images import KnownImages, find_known_images
from worker.evaluation.report.schema import (
    SCHEMA,
    Controls,
    Data,
    DireError,
    FormatCell,
    FormatControl,
    FormatPair,
    PolicyUsed,
    Report,
    SkippedFile,
)
from worker.evaluation.scored_images import ScoredImage, scored_images
from worker.evaluation.scorer import ABLATIONS, Follow, Scoring, ScoringResult, scores_of
from worker.metrics.intervals import share_interval
from worker.metrics.ranking import Floats, Labels, missing_classes
from worker.metrics.scores import Names, Scores
from worker.model.detector import Detector
from worker.model.verdicts.policy import Policy
from worker.model.verdicts.verdict import DecisionRule, Verdict, decide

Part = Literal["robustness", "controls", "formats", "dire"]
PARTS: frozenset[Part] = frozenset(get_args(Part))

_REASONS = 3
"""Files that are named, with the reason why they were skipped, where nothing is left to evaluate."""


class EvaluationError(DistildireError):
    """These images cannot be evaluated."""


@dataclass(frozen=True)
class Plan:
    """Which parts are done besides the figures themselves, how many images at once, and how intervals are computed."""

    parts: frozenset[Part]
    batch_size: int
    resampling: Resampling

    def passes(self, side: int, others: int) -> int:
        """Count how often each image passes through a whole model."""
        extra: dict[Part, int] = {
            "robustness": len(robustness_corruptions(side)),
            "formats": len(format_conversions()),
            "controls": others,
            "dire": 1,
        }
        return 1 + sum(count for part, count in extra.items() if part in self.parts)


@dataclass(frozen=True)
class Source:
    """The data set as it was named, the split, its images, and the files that were skipped."""

    name: str
    split: str
    images: Sequence[LabelledImage]
    skipped: Sequence[Skipped]


@dataclass(frozen=True)
class Evaluated:
    """What came of an evaluation: its report, and the verdict on each image."""

    report: Report
    images: tuple[ScoredImage, ...]


@dataclass(frozen=True)
class Evaluation:
    """One model on one set of images, by its card's threshold or by a policy.

    `calibrated_on`: the images that the policy was made of, where that is known (`images_of`).
    """

    detector: Detector
    policy: Policy | None
    source: Source
    plan: Plan
    follow: Follow
    batch_cache: BatchCache | None = None
    calibrated_on: frozenset[str] | None = None

    @property
    def rule(self) -> DecisionRule:
        """How an image is classified."""
        return DecisionRule(self.detector.card.threshold) if self.policy is None else self.policy.decision_rule

    def run(self, others: Mapping[str, Detector]) -> Evaluated:
        """Do everything.

        Args:
            others: models to compare on the same images, by name, such as students that were trained on the image or
                on the noise alone; each at its card's threshold.

        Raises:
            EvaluationError: a class has no usable image.
        """
        began = time.monotonic()
        _check_classes(np.array([image.fake for image in self.source.images], dtype=np.bool_), self.source)
        known = find_known_images(self.detector, self.policy, self.calibrated_on, self.source.images)
        pairs = self.detector.card.student.inputs != "dire"  # such a student makes its input itself, from the image
        asked = ABLATIONS if "controls" in self.plan.parts and pairs else {}
        scored = self._over(self.source.images).logits("as they are", ablations=asked)
        usable = list(compress(self.source.images, np.isfinite(scored.logits)))
        scores = scores_of(self.source.images, scored.logits)
        _check_classes(scores.fake, self.source, scored.skipped)
        probabilities = self._probabilities(scores)
        ablated = {name: scores_of(self.source.images, logits) for name, logits in scored.ablated.items()}
        report = Report(
            schema=SCHEMA,
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            confidence=self.plan.resampling.confidence,
            resamples=self.plan.resampling.resamples,
            seed=self.plan.resampling.seed,
            model=self.detector.identity,
            policy=self._policy_used(scores, known),
            data=self._data(usable, scores, scored.skipped, known),
            overall=self._estimates_of(scores),
            curves=curves(probabilities, scores.fake),
            generators={name: self._estimates_of(part) for name, part in scores.by_generator().items()},
            generators_roc={
                name: roc(self._probabilities(part), part.fake) for name, part in scores.by_generator().items()
            },
            left_out=held_out_generators(
                probabilities, scores.fake, scores.generators, scores.groups, self.plan.resampling
            ),
            robustness=self._robustness(usable) if "robustness" in self.plan.parts else {},
            controls=self._controls(usable, scores, ablated, others) if "controls" in self.plan.parts else None,
            formats=self._formats(usable, scores) if "formats" in self.plan.parts else None,
            dire=self._dire(usable) if "dire" in self.plan.parts else None,
            seconds=round(time.monotonic() - began, 1),
        )
        return Evaluated(report, self._one_by_one(scored, known))

    def _one_by_one(self, scored: ScoringResult, known: KnownImages) -> tuple[ScoredImage, ...]:
        images, reasons = self.source.images, {file.path: file.reason for file in scored.skipped}

        def call(logit: float) -> Verdict:
            return decide(logit, self.rule)

        took_part_in = [known.took_part_in(at) for at in range(len(images))]
        return scored_images(images, scored.logits, reasons, took_part_in, call)

    def _robustness(self, images: Sequence[LabelledImage]) -> dict[str, Estimates]:
        corruptions = robustness_corruptions(self.detector.card.image_size)
        return {name: self._estimates_of(self._changed(images, name, change)) for name, change in corruptions.items()}

    def _controls(
        self,
        images: Sequence[LabelledImage],
        scores: Scores,
        ablated: Mapping[str, Scores],
        others: Mapping[str, Detector],
    ) -> Controls:
        by_file = estimates_of(
            probabilities_by_file(images, self.plan.resampling.seed),
            scores.fake,
            scores.groups,
            0.5,
            self.plan.resampling,
        )
        compared = {}
        for name, detector in others.items():
            scored = self._over(images, detector).logits(name)
            told = scores_of(images, scored.logits)
            compared[name] = estimates_of(
                told.probabilities, told.fake, told.groups, detector.card.threshold, self.plan.resampling
            )
        chance = chance_average_precision(self._probabilities(scores), scores.fake, scores.groups, self.plan.resampling)
        return Controls(
            chance=chance,
            file_statistics=by_file.estimates["average_precision"],
            labels_leak=labels_leak(by_file.estimates["average_precision"], chance),
            ablations={name: self._estimates_of(each) for name, each in ablated.items()},
            others=compared,
        )

    def _formats(self, images: Sequence[LabelledImage], scores: Scores) -> FormatControl:
        changed = {(AS_STORED, AS_IT_IS): scores} | {
            (kind, history): self._changed(images, f"{kind}, {history}", change)
            for (kind, history), change in format_conversions().items()
        }
        cells = []
        for (kind, history), scored in changed.items():
            rates = self._estimates_of(scored).estimates
            cells.append(FormatCell(kind, history, rates["false_positive_rate"], rates["true_positive_rate"]))
        pairs = [
            FormatPair(reals, fakes, history, self._crossed(changed[reals, history], changed[fakes, history]))
            for history in dict.fromkeys(history for _, history in changed)
            for reals in dict.fromkeys(kind for kind, _ in changed)
            for fakes in dict.fromkeys(kind for kind, _ in changed)
        ]
        return FormatControl(cells, pairs)

    def _dire(self, images: Sequence[LabelledImage]) -> DireError:
        """Only the order of the errors says something: no threshold is applied to them."""
        errors = self._over(images).dire_errors("DIRE, 40 passes each")
        told = scores_of(images, -errors)
        found = estimates_of(told.logits, told.fake, told.groups, 0.0, self.plan.resampling).estimates
        return DireError(found["average_precision"], found["roc_auc"])

    def _crossed(self, reals: Scores, fakes: Scores) -> Estimate:
        """Average precision of real images scored in one format against fakes scored in another."""
        real, fake = reals.only(~reals.fake), fakes.only(fakes.fake)
        probabilities = np.concatenate([self._probabilities(real), self._probabilities(fake)])
        truth, groups = np.concatenate([real.fake, fake.fake]), np.concatenate([real.groups, fake.groups])
        found = estimates_of(probabilities, truth, groups, self.rule.threshold, self.plan.resampling)
        return found.estimates["average_precision"]

    def _changed(self, images: Sequence[LabelledImage], name: str, change: Change) -> Scores:
        scored = self._over(images).logits(name, change=change)
        return scores_of(images, scored.logits)

    def _over(self, images: Sequence[LabelledImage], detector: Detector | None = None) -> Scoring:
        return Scoring(detector or self.detector, images, self.plan.batch_size, self.follow, self.batch_cache)

    def _estimates_of(self, scores: Scores) -> Estimates:
        return estimates_of(
            self._probabilities(scores), scores.fake, scores.groups, self.rule.threshold, self.plan.resampling
        )

    def _probabilities(self, scores: Scores) -> Floats:
        if self.policy is None:
            return scores.probabilities
        return Calibration(self.policy.temperature, self.policy.bias).of(scores)

    def _policy_used(self, scores: Scores, known: KnownImages) -> PolicyUsed | None:
        policy = self.policy
        if policy is None:
            return None
        left_open = np.array(
            [decide(logit, self.rule).prediction == "INCONCLUSIVE" for logit in scores.logits.tolist()]
        )
        return PolicyUsed(
            name=policy.name,
            temperature=policy.temperature,
            bias=policy.bias,
            inconclusive_from=policy.inconclusive_from,
            inconclusive_reals=self._share(left_open[~scores.fake], scores.groups[~scores.fake]),
            inconclusive_fakes=self._share(left_open[scores.fake], scores.groups[scores.fake]),
            seen_in_calibration=None if known.policy is None else sum(known.policy),
        )

    def _share(self, counted: Labels, groups: Names) -> Estimate:
        share = float(counted.mean())
        exact = share_interval(share, len(np.unique(groups)), self.plan.resampling.confidence)
        return Estimate(share, exact.low, exact.high)

    def _data(
        self, usable: Sequence[LabelledImage], scores: Scores, skipped: Sequence[Skipped], known: KnownImages
    ) -> Data:
        names, counts = np.unique(scores.generators[scores.fake], return_counts=True)
        return Data(
            source=self.source.name,
            split=self.source.split,
            sha256=data_sha256(usable),
            seen_in_training=known.model.training if known.model else None,
            seen_in_validation=known.model.validation if known.model else None,
            generators=dict(zip(names.tolist(), counts.tolist(), strict=True)),
            skipped=[SkippedFile(str(file.path), file.reason) for file in (*self.source.skipped, *skipped)],
        )


def _check_classes(fake: Labels, source: Source, skipped: Sequence[Skipped] = ()) -> None:
    """Raise EvaluationError where a class is missing, with the first reasons why files were skipped."""
    files = (*skipped, *source.skipped)
    told = "".join(f"\nSkipped: {file.path}: {file.reason}" for file in files[:_REASONS])
    more = f"\nSkipped as well: {len(files) - _REASONS:,} files." if len(files) > _REASONS else ""
    for name in missing_classes(fake):
        raise EvaluationError(
            f"{source.name} has no usable {name} image in the split {source.split!r}. Add some, or name another "
            f"split.{told}{more}"
        )
