"""`distildire up`."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.commands.options import data_dir_option
from deploy.local.control import up
from deploy.local.stack import DEFAULT_PORT
from deploy.local.stack_file import StackDocument
from deploy.terminal.console import StackProgress, notes, show_stack


@click.command()
@data_dir_option
@click.option(
    "--port", type=click.IntRange(1, 65535), help=f"The API's port [default: the last one, {DEFAULT_PORT} at first]."
)
@click.option("--detach", is_flag=True, help="Return once all is up; the stack runs on until `distildire down`.")
def command(data_dir: Path, port: int | None, detach: bool) -> None:
    """Start the whole service on this machine, or what of it is missing; Ctrl-C stops it.

    Data survives a restart. Everything listens on the loopback interface alone. Your own DISTILDIRE_* settings
    reach the processes of a stack that this command starts. If `up` is killed, all that it started ends with it.
    """
    console = notes()
    with StackProgress(console) as progress:

        def ready(owned: bool) -> None:
            progress.finish()
            document = StackDocument.read(data_dir)
            if document is not None:
                show_stack(console, data_dir, document, owned=owned)

        ended = up(data_dir, port, progress.report, detach=detach, ready=ready)
    if ended:
        console.print(f"The stack has stopped; its data stays in {data_dir}.")
