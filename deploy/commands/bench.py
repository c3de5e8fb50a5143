"""`distildire bench`."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from deploy.commands.options import device_option, models_dir_option
from deploy.terminal.console import notes, output
from shared.percentages import confidence_level, decimal

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.bench.distillation_report import ArmResult, Findings
    from worker.metrics.intervals import EstimateInterval


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Measure on this machine; MODEL and SERVICE if nothing is named."""
    if context.invoked_subcommand is None:
        _measure("model")
        _measure("service")


@command.command()
def model() -> None:
    """The full-size model alone."""
    _measure("model")


@command.command()
def service() -> None:
    """The service end to end."""
    _measure("service")


@command.command()
def paper() -> None:
    """What DistilDIRE saves of DIRE's passes.

    In operations and in seconds, with the full-size networks. Ten minutes on a CPU, and about the method, not the
    machine.
    """
    _measure("paper")


def _measure(part: str) -> None:
    """Run a part in a process of its own, for its memory and processor time to be its own."""
    if find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    code = subprocess.run([sys.executable, "-P", "-m", f"deploy.bench.{part}"], check=False).returncode
    if code:
        sys.exit(code)


@command.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--adm", metavar="MODEL", required=True, help="An installed model: its ADM makes the noise maps.")
@click.option(
    "--teacher-weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Of the recipe's teacher, as a file, where the recipe names none.",
)
@click.option("--recipe", "named", help="What all share.  [default: one for 64 pixels and two processor cores]")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Students of each kind.")
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="NAME",
    help="Of torchvision, beside the recipe's student; again for more.  "
    "[default: resnet18, resnet50, mobilenet_v3_small, efficientnet_b0]",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("distillation"), show_default=True
)
@device_option
@models_dir_option
def distillation(  # noqa: PLR0913  # an option each
    *,
    data: Path,
    adm: str,
    teacher_weights: Path | None,
    named: str | None,
    seeds: int,
    backbones: tuple[str, ...],
    out: Path,
    device: str,
    models_dir: Path | None,
) -> None:
    """What a teacher is worth, and a smaller student.

    DATA is as for `train`. Trains students without and with a teacher, for three λ, which sees the image or the DIRE
    image; then other backbones. All take as many steps, and are scored on the split `test`. The command may be stopped
    or killed at any moment; the same command continues from there.
    """
    from deploy.bench.distillation import BACKBONES, RECIPE, Arm, Experiment, distilled
    from deploy.bench.distillation_report import compare
    from worker.atomic_files import write_whole
    from worker.training.recipe import changed, read_recipe

    recipe = read_recipe(named or str(RECIPE))
    if teacher_weights is not None:
        recipe = changed(recipe, "teacher", weights=teacher_weights)
    taught = distilled(recipe.student.backbone)
    arms = dict.fromkeys([*taught, *map(Arm, backbones or BACKBONES)])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    try:
        found = compare(Experiment(data, adm, out, recipe, tuple(arms), seeds, models_dir, device))
    except KeyboardInterrupt:
        notes().print("Stopped. The same command continues from here.")
        sys.exit(130)
    document = found.document()
    write_whole(out / "distillation.json", (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())
    _show(found, document["machine"])
    output().print(f"Report: {escape(str(out / 'distillation.json'))}")


def _show(found: Findings, machine: str) -> None:
    """Print the machine, the teachers, what they changed, and the backbones."""
    from deploy.bench.distillation_report import interval_text, sentence

    output().print(escape(machine))
    confidence = confidence_level(found.resampling.confidence)
    output().print(f"AP with its {confidence} intervals over {found.experiment.seeds} seeds and over images; ROC-AUC.")
    first = found.results[0].arm
    taught = [result for result in found.results if result.arm.backbone == first.backbone]
    table = _table("teacher sees", "λ", *_FIGURES)
    for result in taught:
        sees = result.arm.sees if result.arm.weight else "no teacher"
        table.add_row(sees, f"{result.arm.weight:g}", *_figures(result, interval_text))
    output().print(table)
    for result in taught[1:]:
        output().print(sentence(result))
    table = _table("student", "parameters", "ms", *_FIGURES)
    for result in (result for result in found.results if not result.arm.weight):
        speed = found.speeds[result.arm.backbone]
        about = f"{speed.parameters / 1e6:.1f} M", f"{speed.milliseconds:.1f}"  # one image, the student alone
        table.add_row(result.arm.backbone, *about, *_figures(result, interval_text))
    output().print(table)


_FIGURES = ("AP", "seeds", "images", "ROC-AUC", "seeds")


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold dim")
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table


def _figures(result: ArmResult, interval_text: Callable[[EstimateInterval], str]) -> tuple[str, ...]:
    precision, area = result.average_precision, result.roc_auc
    return (
        decimal(precision.value),
        interval_text(precision.seeds),
        interval_text(precision.photographs),
        decimal(area.value),
        interval_text(area.seeds),
    )
