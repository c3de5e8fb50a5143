"""`distildire evaluate`."""

from __future__ import annotations

import re
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
from deploy.image_progress import ImageProgress
from deploy.terminal import notes, output

if TYPE_CHECKING:
    from worker.model.loading import Precision
    from worker.training.evaluator import Part
    from worker.training.figures import Estimate
    from worker.training.layouts import Split
    from worker.training.report import Report

_SHOWN = {
    "average_precision": "average precision",
    "roc_auc": "ROC-AUC",
    "accuracy": "accuracy",
    "true_positive_rate": "fakes found",
    "false_positive_rate": "photographs called FAKE",
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
    help="The folder for report.json and report.html.",
)
@click.option(
    "--without",
    "left_out",
    type=click.Choice(["robustness", "controls", "formats"]),
    multiple=True,
    help="Leave a part out; robustness costs six passes over the images, formats three.",
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
    left_out: tuple[Part, ...],
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

    Writes a report as JSON and as one HTML page. Files that cannot be read are listed and skipped. The command may be
    stopped at any moment; the same command goes on from there.
    """
    from worker.model import load_model
    from worker.model.card_sections import card_to_write, require_own_folder, write_section
    from worker.model.config import EVALUATION_NAME
    from worker.model.policy import images_of, load_policy
    from worker.model.whole_files import write_whole
    from worker.training.dataset import read_dataset
    from worker.training.evaluator import PARTS, Evaluation, Plan, Source
    from worker.training.figures import Resampling
    from worker.training.journal import Journal
    from worker.training.report import report_json
    from worker.training.report_card import card_lines
    from worker.training.report_page import page
    from worker.training.scoring import identity_of

    if others and "controls" in left_out:
        raise click.UsageError("--compare is one of the controls: give it without --without controls.")
    if record and not re.match(EVALUATION_NAME, record):
        raise click.UsageError("--record takes a name of at most 64 letters, digits, hyphens and underscores.")
    out.mkdir(parents=True, exist_ok=True)  # at once: nobody wants to wait for a report that finds no place
    card, folder = chosen_card(model, models_dir)
    if record:
        require_own_folder(card)
    with notes().status("Reading the images …"):
        dataset = read_dataset(data)
    images = dataset.of(split)
    with notes().status(f"Loading {card.card.name} …"):
        detector = load_model(card.card.name, device, precision, folder)
        chosen = load_policy(policy, card, detector.weights_sha256, detector.precision) if policy else None
        calibrated_on = images_of(chosen, card) if chosen else None
        compared = {}
        for name in others:
            other, place = chosen_card(name, models_dir)
            key = name if other.card.name in compared else other.card.name
            compared[key] = load_model(other.card.name, device, precision, place)
    unwanted = {*left_out, *(() if dire else ("dire",))}
    plan = Plan(PARTS - unwanted, batch, Resampling(resamples, seed))
    source = Source(str(data), split, images, dataset.skipped)
    journal = Journal(out, identity_of(images, batch))
    with ImageProgress(len(images) * plan.passes(detector.card.image_size, len(compared))) as progress:
        evaluation = Evaluation(detector, chosen, source, plan, progress.follow, journal, calibrated_on)
        report = evaluation.report(compared)
    write_whole(out / "report.json", report_json(report).encode())
    write_whole(out / "report.html", page(report).encode())
    if record:
        write_section(card_to_write(card), f"evaluations.{record}", card_lines(record, report))
    journal.clear()
    _show(report, out)


def _show(report: Report, out: Path) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold dim")
    table.add_column(f"{report.overall.reals:,} photographs, {report.overall.fakes:,} fakes")
    table.add_column("", justify="right")
    table.add_column(f"{report.confidence:.0%} interval")
    for name, label in _SHOWN.items():
        table.add_row(label, *_told(report.overall.estimates[name]))
    output().print(table)
    if report.data.skipped:
        notes().print(f"[yellow]{len(report.data.skipped)} files were skipped[/]; the report lists them.")
    output().print(f"Report: {escape(str(out / 'report.html'))}, {escape(str(out / 'report.json'))}")
    output().print("A verdict is evidence, not proof.")


def _told(estimate: Estimate) -> tuple[str, str]:
    if estimate.value is None:
        return "–", "not estimable"
    value = f"{estimate.value:.3f}"
    if estimate.low is None or estimate.high is None:
        return value, ""
    return value, f"{estimate.low:.3f} – {estimate.high:.3f}"
