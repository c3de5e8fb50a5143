"""`distildire calibrate`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.markup import escape

from deploy.commands.options import (
    batch_option,
    chosen_card,
    device_option,
    model_option,
    models_dir_option,
    precision_option,
)
from deploy.terminal.console import notes, output
from deploy.terminal.exits import resumable
from deploy.terminal.progress import ImageProgress
from deploy.terminal.streams import readable
from shared.domain import DEFAULT
from shared.percentages import confidence_level, decimal, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.calibration.fitting import Origin
    from worker.datasets.formats import Skipped, Split
    from worker.datasets.labelled_image import LabelledImage
    from worker.model import Detector
    from worker.model.cards.registry import InstalledCard
    from worker.model.loading import Precision
    from worker.model.verdicts.policy import Policy

_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--name", required=True, help="The policy's name, by which jobs and tenants choose it.")
@model_option
@models_dir_option
@click.option(
    "--target-fpr", type=_SHARE, help="Classify at most this share of real images as FAKE; its bound is exact."
)
@click.option("--youden", is_flag=True, help="Instead: the threshold with the best sum of both classes' rates.")
@click.option(
    "--max-miss-rate",
    type=_SHARE,
    help="Classify as REAL only where at most this share of the fakes lies; what lies between is INCONCLUSIVE.",
)
@click.option(
    "--split",
    type=click.Choice(["validation", "test", "all"]),
    default="validation",
    show_default=True,
    help="Which images; all, where the model was trained on none of them.",
)
@device_option
@precision_option
@batch_option
def command(  # noqa: PLR0913  # an option each
    *,
    data: Path,
    name: str,
    model: str,
    models_dir: Path | None,
    target_fpr: float | None,
    youden: bool,
    max_miss_rate: float | None,
    split: Split | Literal["all"],
    device: str,
    precision: Precision,
    batch: int,
) -> None:
    """Choose a threshold on labelled images that the model was not trained on: DATA is a folder or a CSV file.

    Writes a policy beside the model's card, with what was measured of it. Use other images for `distildire evaluate`.
    """
    from worker.calibration.fitting import policy_by_youden, policy_for_target
    from worker.datasets.contamination import short_digests
    from worker.datasets.dataset import read_dataset
    from worker.evaluation.batch_cache import BatchCache
    from worker.evaluation.scorer import Scoring, identity_of, scores_of
    from worker.model import load_model
    from worker.model.verdicts.policy_files import policy_place, write_policy

    if youden == (target_fpr is not None):
        raise click.UsageError("Give exactly one of --target-fpr and --youden.")
    _check_name(name)
    card, folder = chosen_card(model, models_dir)
    place = policy_place(name, card)
    with notes().status("Reading the images …"):
        dataset = read_dataset(data, hold=split)
    images = dataset.of(split)
    _check_images(card, images, target_fpr, max_miss_rate)
    with notes().status(f"Loading {card.card.name} …"):
        detector = load_model(card.card.name, device, precision, folder)
    batch_cache = BatchCache(place.parent, [*identity_of(images, batch), name])  # two policies may be made at once
    with resumable(place.parent), ImageProgress(len(images)) as progress:
        scored = Scoring(detector, images, batch, progress.follow, batch_cache).logits("as they are")
    _show_skipped((*dataset.skipped, *scored.skipped))
    skipped = {file.path for file in scored.skipped}
    used = [image for image in images if image.path not in skipped]
    scores, origin = scores_of(images, scored.logits), _origin(name, detector, used)
    if target_fpr is None:
        policy = policy_by_youden(scores, origin, max_miss_rate=max_miss_rate)
    else:
        policy = policy_for_target(scores, origin, target_fpr, max_miss_rate)
    write_policy(policy, place, short_digests(used))
    batch_cache.clear()
    show_policy(policy, place)


def _check_images(
    card: InstalledCard, images: Sequence[LabelledImage], target_fpr: float | None, max_miss_rate: float | None
) -> None:
    """Refuse images that the model was trained on, and too few of them, before hours of work."""
    import numpy as np

    from worker.calibration.fitting import check_enough
    from worker.evaluation.scorer import scores_of

    _check_contamination(card, images)
    known = scores_of(images, np.zeros(len(images)))
    check_enough(known.fake, known.groups, target_fpr, max_miss_rate)


def _show_skipped(files: Sequence[Skipped]) -> None:
    for file in files:
        notes().print(f"[yellow]skipped[/] {escape(readable(file.path))}: {escape(file.reason)}")


def _origin(name: str, detector: Detector, images: Sequence[LabelledImage]) -> Origin:
    """Return what the policy says of where it comes from: the model, and the images that could be scored."""
    from worker.calibration.fitting import Origin
    from worker.datasets.digests import data_sha256

    return Origin(
        name=name,
        model=detector.card.name,
        weights_sha256=detector.weights_sha256,
        precision=detector.precision,
        made_at=datetime.now(UTC).replace(microsecond=0),
        data_sha256=data_sha256(images),
        media_types=tuple(sorted({image.media_type for image in images})),
    )


def _check_name(name: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    from worker.model.verdicts.policy import PolicyName

    try:
        TypeAdapter(PolicyName).validate_python(name)
    except ValidationError as error:
        raise click.BadParameter(
            "use up to 100 letters, digits, dots, dashes and underscores, beginning with a letter or digit; but not "
            f"{DEFAULT!r}, which stands for no policy.",
            param_hint="--name",
        ) from error


def _check_contamination(card: InstalledCard, images: Sequence[LabelledImage]) -> None:
    """Refuse images that the model was trained on, by their digests, and report what is known of the others."""
    from worker.calibration.thresholds import CalibrationError
    from worker.datasets.contamination import training_contamination
    from worker.model.cards.editing import report_place

    found = training_contamination(card.card, card.path, images)
    if found is None:
        place = report_place(card.path, card.card.name)
        notes().print(f"Whether the model was trained on these images is not known: no {place} tells.", markup=False)
    elif found.training:
        raise CalibrationError(
            f"{card.card.name} was trained on {found.training:,} of these {len(images):,} images, so its rates here "
            "say nothing about others. Exclude them, as `--split validation` does, or take images of your own."
        )
    elif found.validation:
        notes().print(
            f"By {found.validation:,} of these {len(images):,} images the training chose its best epoch, which "
            "flatters the rates. Images that took no part in it are better evidence."
        )
    else:
        notes().print("None of these files took part in the model's training.")


def show_policy(policy: Policy, place: Path) -> None:
    """Print where the policy was written, what it decides by and how often it was wrong."""
    from worker.metrics.intervals import clopper_pearson
    from worker.metrics.rounding import spread

    evidence = policy.evidence
    missed = round(evidence.missed_fakes * evidence.fake_groups)
    share = clopper_pearson(missed, evidence.fake_groups, evidence.confidence)
    output().print(f"Policy {escape(policy.name)} of {escape(policy.model)}: {escape(str(place))}")
    output().print(
        f"  threshold {decimal(policy.threshold, 4)}, temperature {policy.temperature:.3f}, bias {policy.bias:+.3f}"
    )
    output().print(
        f"  real images classified as FAKE: {percent(evidence.measured_fpr, 2)} of {evidence.real_groups:,}, with "
        f"{confidence_level(evidence.confidence)} confidence at most {percent(evidence.fpr_upper_bound, 2)}"
    )
    output().print(
        f"  fakes classified as REAL: {percent(evidence.missed_fakes, 1)} of {evidence.fake_groups:,}, "
        f"{confidence_level(evidence.confidence)} interval "
        f"{spread(evidence.missed_fakes, share.low, share.high, percent=True)}"
    )
    if policy.inconclusive_from is not None:
        output().print(f"  inconclusive from {decimal(policy.inconclusive_from, 4)} up to the threshold")
    elif evidence.max_miss_rate is not None:
        output().print("  no band: the threshold itself misses few enough fakes")
    output().print("A verdict is evidence, not proof. The rates hold for images like these.")
