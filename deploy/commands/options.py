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
