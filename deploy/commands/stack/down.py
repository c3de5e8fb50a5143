"""`distildire down`."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.commands.options import data_dir_option
from deploy.local.control import down
from deploy.terminal.console import notes


@click.command()
@data_dir_option
def command(data_dir: Path) -> None:
    """Stop the stack of a data directory; what the workers are doing is finished first, and data stays."""
    console = notes()
    with console.status("Stopping: the API, the workers with what they are doing, the services …"):
        stopped = down(data_dir)
    if stopped == ["stack"]:
        console.print(f"The stack of {data_dir} has stopped; its data stays.")
    elif stopped:
        console.print(f"Ended what a killed stack had left: {', '.join(stopped)}.")
    else:
        console.print(f"Nothing runs in {data_dir}.")
