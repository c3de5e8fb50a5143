"""Options that several subcommands take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from worker.model.cards.registry import InstalledCard

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data"),
    envvar="DISTILDIRE_DATA_DIR",
    show_default=True,
    show_envvar=True,
    help="Where the stack keeps its data, passwords and logs.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "cpu"]),
    default="auto",
    envvar="DISTILDIRE_DEVICE",
    help="Where the model runs; auto: on CUDA where there is a GPU.",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    envvar="DISTILDIRE_PRECISION",
    help="Number format of the U-Net; auto: the card's, or else the device's fastest.",
)
models_dir_option = click.option(
    "--models-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="DISTILDIRE_MODELS_DIR",
    show_envvar=True,
    help="A folder of model cards and weights of your own.",
)
model_option = click.option(
    "--model",
    default="DISTILDIRE-DEMO",
    envvar="DISTILDIRE_MODEL",
    show_default=True,
    help="A model's name, or the folder that its card lies in.",
)
batch_option = click.option(
    "--batch", type=click.IntRange(min=2), default=8, show_default=True, help="Images classified at once, at least."
)


def chosen_card(model: str, models_dir: Path | None) -> tuple[InstalledCard, Path | None]:
    """Return the card that `model` names, or the one that lies in the folder `model`; and the folder of models.

    Raises:
        ModelError: there is none, or the folder has several.
    """
    from worker.model.cards.registry import ModelError, find_card, list_cards

    folder = Path(model)
    if not folder.is_dir():
        return find_card(model, models_dir), models_dir
    cards = [installed for installed in list_cards(folder) if installed.path.parent == folder]
    if len(cards) != 1:
        names = ", ".join(installed.card.name for installed in cards) or "none"
        raise ModelError(
            f"The folder {folder} must hold one model card; it holds {names}. Name a model, with --models-dir {folder}."
        )
    return cards[0], folder
