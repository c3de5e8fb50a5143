"""`distildire models`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from deploy.commands.options import device_option, models_dir_option, precision_option
from deploy.model_files import fetch_files, import_files
from deploy.terminal import models
from deploy.terminal.console import notes, output
from deploy.terminal.groups import SuggestingGroup
from deploy.terminal.streams import print_json
from deploy.terminal.tables import show_rows
from worker.model import find_card, list_cards

if TYPE_CHECKING:
    from worker.model.loading import Precision

_name = click.argument("name", metavar="MODEL")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output, nothing else.")
_json_lines = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document a model on standard output, nothing else."
)
_target_option = click.option(
    "--models-dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DISTILDIRE_MODELS_DIR",
    required=True,
    show_envvar=True,
    help="Where the files are put; made if it is not there.",
)


@click.group(cls=SuggestingGroup)
def command() -> None:
    """List, show, fetch, import, verify and convert models."""


@command.command("list")
@models_dir_option
@_json_lines
def list_models(models_dir: Path | None, as_json: bool) -> None:
    """List the models whose cards are installed, and whether their weights are there."""
    summaries = [models.summary(installed) for installed in list_cards(models_dir)]
    rows = summaries if as_json else list(map(models.list_row, summaries))
    show_rows(("model", "weights", "license", "card"), rows, as_json=as_json)


@command.command()
@_name
@models_dir_option
@_json
def show(name: str, models_dir: Path | None, as_json: bool) -> None:
    """Tell what a model's card says: licence, sources, digests, and whether the files are there."""
    installed = find_card(name, models_dir)
    if as_json:
        print_json(models.description(installed))
        return
    for line in models.describe_lines(installed):
        output().print(line)


@command.command()
@_name
@_target_option
@click.option(
    "--accept-license", is_flag=True, help="You agree to the licences of the weights; the command does not ask."
)
def fetch(name: str, folder: Path, accept_license: bool) -> None:
    """Download a model's weights from where its card says that they are published.

    What broke off goes on where it stopped. A file appears once it has the digest of its card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fetched = fetch_files(find_card(name, folder), folder, accept_license=accept_license)
    for path in fetched:
        output().print(f"[green]✓[/] {escape(str(path))}")
    output().print(f"`distildire models verify {name}` checks that it works." if fetched else "All files are there.")


@command.command("import")
@_name
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE…",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@_target_option
@click.option("--link", is_flag=True, help="Make hard links instead of copies; on the same file system.")
def import_model(name: str, files: tuple[Path, ...], folder: Path, link: bool) -> None:
    """Put a model's weights, brought as files of any name, where they belong. They are recognised by their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    installed = find_card(name, folder)
    for source, target in zip(files, import_files(installed, folder, files, link=link), strict=True):
        output().print(f"[green]✓[/] {escape(str(source))} is {escape(str(target))}")
    output().print(f"`distildire models verify {name}` checks that it works.")


@command.command("verify")
@_name
@models_dir_option
@device_option
@precision_option
@click.option("--record", is_flag=True, help="Replace the card's self-test by what these weights answer.")
@_json
def verify_model(
    name: str, models_dir: Path | None, device: str, precision: Precision, record: bool, as_json: bool
) -> None:
    """Check a model as a worker does at its start: digests, that every parameter fits, and the self-test.

    The exit code is 1 if something is wrong.
    """
    from worker.model import verify

    with notes().status(f"Verifying {name} …"):
        verification = verify(name, models_dir, device=device, precision=precision, record=record)
    if as_json:
        print_json(models.verification_document(verification))
    else:
        for line in models.verification_lines(verification):
            output().print(line)
    sys.exit(1 if verification.problems else 0)


@command.command()
@_name
@models_dir_option
def convert(name: str, models_dir: Path | None) -> None:
    """Write a model's weights as safetensors beside the published files. They still count as the card's."""
    from worker.model.weights.conversion import convert as convert_file

    installed = find_card(name, models_dir)
    for part, file in models.card_files(installed).items():
        with notes().status(f"Converting {file.weights} …"):
            target = convert_file(installed, file)
        if target is None:
            output().print(f"[green]✓[/] {part}: {escape(str(installed.locate(file)))} is safetensors already")
        else:
            output().print(f"[green]✓[/] {part}: {escape(str(target))}; the published file may be removed")
