"""`distildire train`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from deploy.commands.options import models_dir_option
from deploy.terminal.console import notes


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--adm", metavar="MODEL", required=True, help="An installed model: its ADM makes the noise maps.")
@click.option("--name", metavar="NEW_MODEL", required=True, help="What the new model is called.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where card, weights and report go."
)
@click.option("--recipe", "named", default="corrected", show_default=True, help="`published`, or a TOML file.")
@click.option("--teacher-weights", type=click.Path(dir_okay=False, path_type=Path), help="torchvision's, as a file.")
@click.option("--no-teacher", is_flag=True, help="Learn from the labels alone.")
@click.option("--seed", type=click.IntRange(min=0), help="In place of the recipe's seed of the training.")
@click.option("--without-generator", "without", metavar="NAME", multiple=True, help="Leave its fakes out; repeatable.")
@click.option("--permute-labels", is_flag=True, help="Shuffle the labels: a control that learns chance.")
@click.option(
    "--pairs", type=click.Path(file_okay=False, path_type=Path), help="Where noise maps are kept.  [default: OUT/pairs]"
)
@click.option("--license", "license_", default="unstated", show_default=True, help="Of the new weights, for the card.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or auto.")
@models_dir_option
def command(  # noqa: PLR0913  # an option each
    *,
    data: Path,
    adm: str,
    name: str,
    out: Path,
    named: str,
    teacher_weights: Path | None,
    no_teacher: bool,
    seed: int | None,
    without: tuple[str, ...],
    permute_labels: bool,
    pairs: Path | None,
    license_: str,
    device: str,
    models_dir: Path | None,
) -> None:
    """Train a student on images of your own: DATA is a folder or a CSV file (docs/training.md).

    The command may be stopped or killed at any moment; the same command continues from there. Under `torchrun` several
    processes train together.
    """
    from worker.model.loading import choose_device
    from worker.training.loop.distributed import joined_process_group
    from worker.training.pipeline import prepare
    from worker.training.recipe import changed, read_recipe
    from worker.training.request import TrainingRequest

    recipe = read_recipe(named)
    if teacher_weights is not None:
        recipe = changed(recipe, "teacher", weights=teacher_weights)
    if no_teacher:
        recipe = changed(recipe, "teacher", weight=0.0)
    if seed is not None:
        recipe = changed(recipe, "training", seed=seed)
    request = TrainingRequest(
        data=data,
        adm=adm,
        out=out,
        pairs=pairs or out / "pairs",
        name=name,
        license=license_,
        recipe=recipe,
        models_dir=models_dir,
        device=device,
        without=without,
        permute_labels=permute_labels,
    )
    with joined_process_group(choose_device(device).type) as processes:
        logging.basicConfig(
            level=logging.INFO if processes.is_main else logging.WARNING, format="%(asctime)s %(message)s", force=True
        )
        try:
            card = prepare(request, processes).run()
        except KeyboardInterrupt:
            notes().print("Stopped. The same command continues from here.")
            sys.exit(130)
        if processes.is_main:
            notes().print(f"Trained. The card is {card}; use it with --models-dir {out} --model {name}.")
