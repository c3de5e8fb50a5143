"""`distildire evaluate`."""

from __future__ import annotations

import re
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.markup import escape
from rich.table import Table

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
from shared.percentages import confidence_level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.datasets.formats import Split
    from worker.evaluation.estimates import Estimate
    from worker.evaluation.evaluator import Evaluated, Part, Source
    from worker.evaluation.report.schema import Controls, Report
    from worker.model import Detector
    from worker.model.cards.registry import InstalledCard
    from worker.model.loading import Precision

_SHOWN = {
    "average_precision": "average precision",
    "roc_auc": "ROC-AUC",
    "accuracy": "accuracy",
    "true_positive_rate": "fakes found",
    "false_positive_rate": "real images classified as FAKE",
    "tpr_at_1_percent_fpr": "fakes found at 1 % false alarms",
    "calibration_error": "calibration error",
}


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@model_option
@models_dir_option
@click.option("--policy", help="Use this policy of the model instead of its card's threshold.")
@click.option(
    "--split",
    type=click.Choice(["test", "validation", "train", "all"]),
    default="test",
    show_default=True,
    help="Which images; all, where none of them was trained or calibrated on.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("evaluation"),
    show_default=True,
    help="The folder for report.html, report.json and scores.csv.",
)
@click.option(
    "--without",
    type=click.Choice(["robustness", "controls", "formats"]),
    multiple=True,
    help="Omit a part; robustness costs six passes over the images, formats three.",
)
@click.option("--dire", is_flag=True, help="Also DIRE's reconstruction error: forty passes of the U-Net an image.")
@click.option("--compare", "others", multiple=True, metavar="MODEL", help="Another model, or its folder.")
@click.option(
    "--record",
    metavar="NAME",
    help="Write the figures into the model's card, as those of the set of images of this name.",
)
@click.option("--resamples", type=click.IntRange(min=100), default=1000, show_default=True, help="For the intervals.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@device_option
@precision_option
@batch_option
def command(  # noqa: PLR0913  # an option each
    *,
    data: Path,
    model: str,
    models_dir: Path | None,
    policy: str | None,
    split: Split | Literal["all"],
    out: Path,
    without: tuple[Part, ...],
    dire: bool,
    others: tuple[str, ...],
    record: str | None,
    resamples: int,
    seed: int,
    device: str,
    precision: Precision,
    batch: int,
) -> None:
    """Measure a model on labelled images: DATA is a folder or a CSV file.

    Writes a report as JSON and as one HTML page, and the verdict on each image as CSV. Files that cannot be read are
    listed and skipped. You may stop the command at any moment; the same command continues from there.
    """
    from worker.evaluation.batch_cache import BatchCache
    from worker.evaluation.estimates import Resampling
    from worker.evaluation.evaluator import PARTS, Evaluation, Plan
    from worker.evaluation.scorer import identity_of
    from worker.model import load_model
    from worker.model.cards.editing import require_own_folder
    from worker.model.verdicts.policy_files import images_of, load_policy

    _check_options(others, without, record)
    out.mkdir(parents=True, exist_ok=True)  # before hours of work, not after
    card, folder = chosen_card(model, models_dir)
    if record:
        require_own_folder(card)
    source = _source(data, split)
    with notes().status(f"Loading {card.card.name} …"):
        detector = load_model(card.card.name, device, precision, folder)
        chosen = load_policy(policy, card, detector.weights_sha256, detector.precision) if policy else None
        calibrated_on = images_of(chosen, card) if chosen else None
        compared = _compared(others, models_dir, device, precision)
    unwanted = {*without, *(() if dire else ("dire",))}
    plan = Plan(PARTS - unwanted, batch, Resampling(resamples, seed))
    batch_cache = BatchCache(out, identity_of(source.images, batch))
    passes = plan.passes(detector.card.image_size, len(compared))
    with resumable(out), ImageProgress(len(source.images) * passes) as progress:
        evaluation = Evaluation(detector, chosen, source, plan, progress.follow, batch_cache, calibrated_on)
        evaluated = evaluation.run(compared)
    _write(evaluated, out)
    if record:
        _record(evaluated.report, card, record)
    batch_cache.clear()
    _show(evaluated.report, out)


def _check_options(others: Sequence[str], without: Sequence[Part], record: str | None) -> None:
    from worker.model.cards.schema import EVALUATION_NAME

    if others and "controls" in without:
        raise click.UsageError("--compare is one of the controls: give it without --without controls.")
    if record and not re.match(EVALUATION_NAME, record):
        raise click.UsageError("--record takes a name of at most 64 letters, digits, hyphens and underscores.")


def _source(data: Path, split: Split | Literal["all"]) -> Source:
    from worker.datasets.dataset import read_dataset
    from worker.evaluation.evaluator import Source

    with notes().status("Reading the images …"):
        dataset = read_dataset(data, hold=split)
    return Source(str(data), split, dataset.of(split), dataset.skipped)


def _compared(others: Sequence[str], models_dir: Path | None, device: str, precision: Precision) -> dict[str, Detector]:
    """Load the models to compare with, by their names; by their folders where two have the same name."""
    from worker.model import load_model

    compared: dict[str, Detector] = {}
    for name in others:
        card, folder = chosen_card(name, models_dir)
        key = name if card.card.name in compared else card.card.name
        compared[key] = load_model(card.card.name, device, precision, folder)
    return compared


def _write(evaluated: Evaluated, out: Path) -> None:
    from worker.atomic_files import write_whole
    from worker.evaluation.report.page import page
    from worker.evaluation.report.schema import report_json
    from worker.evaluation.report.thumbnails import gallery
    from worker.evaluation.scored_images import scores_csv

    write_whole(out / "scores.csv", scores_csv(evaluated.images).encode())
    write_whole(out / "report.json", report_json(evaluated.report).encode())
    write_whole(out / "report.html", page(evaluated.report, gallery(evaluated.images)).encode())


def _record(report: Report, card: InstalledCard, name: str) -> None:
    from worker.evaluation.report.card_summary import record_summary
    from worker.model.cards.editing import card_to_write

    record_summary(card_to_write(card), name, report)


def _show(report: Report, out: Path) -> None:
    if report.controls and report.controls.labels_leak:
        output().print(_alarm(report.controls))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold dim")
    table.add_column(f"{report.overall.reals:,} real images, {report.overall.fakes:,} fakes")
    table.add_column("", justify="right")
    table.add_column(f"{confidence_level(report.confidence)} interval")
    for name, label in _SHOWN.items():
        table.add_row(label, *estimate_texts(report.overall.estimates[name]))
    output().print(table)
    if report.data.skipped:
        notes().print(f"[yellow]{len(report.data.skipped)} files were skipped[/]; the report lists them.")
    output().print(f"Report: {escape(str(out / 'report.html'))}, {escape(str(out / 'report.json'))}")
    output().print(f"Each image: {escape(str(out / 'scores.csv'))}")
    output().print("A verdict is evidence, not proof.")


def _alarm(controls: Controls) -> str:
    from worker.metrics.rounding import rounded, spread

    by_file, chance = (rounded(each.value or 0) for each in (controls.file_statistics, controls.chance))
    interval = spread(*astuple(controls.file_statistics))
    return (
        "[bold red]The files give their labels away.[/] Format, size and compression, without a pixel, tell fakes from "
        f"real images with an average precision of {by_file} ({interval}); chance is {chance}. No figure below can be "
        "trusted: store both classes alike, and evaluate again."
    )


def estimate_texts(estimate: Estimate) -> tuple[str, str]:
    """Return what the table shows of an estimate: its value, or the bound if that is certain, and its interval."""
    from worker.metrics.rounding import headline, spread

    if estimate.value is None and estimate.low is None:
        return "–", headline(None, None, None)
    told = astuple(estimate)
    return headline(*told), spread(*told)
