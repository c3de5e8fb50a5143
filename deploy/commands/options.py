"""Options that several subcommands take."""

from __future__ import annotations

from pathlib import Path

import click

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
    "--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", envvar="DISTILDIRE_DEVICE"
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
