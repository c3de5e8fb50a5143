"""`distildire models`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from deploy.commands.options import models_dir_option
from deploy.terminal import notes, output
from worker.model import ModelError, find_card, list_cards, verify
from worker.model.card import BUNDLED

if TYPE_CHECKING:
    from worker.model.card import InstalledCard

_name = click.argument("name", metavar="MODEL")


@click.group()
def command() -> None:
    """List, show and verify models."""


@command.command("list")
@models_dir_option
def list_models(models_dir: Path | None) -> None:
    """List the models whose cards are installed, and whether their weights are there."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold dim")
    for title in ("model", "weights", "license", "card"):
        table.add_column(title, overflow="fold")
    for installed in list_cards(models_dir):
        card = installed.card
        name = f"{card.name} [dim](demonstration)[/]" if card.demonstration else card.name
        table.add_row(
            name,
            "present" if _weights_present(installed) else "[yellow]missing[/]",
            card.license,
            "bundled" if installed.path.is_relative_to(BUNDLED) else escape(str(installed.path)),
        )
    output().print(table)


@command.command()
@_name
@models_dir_option
def show(name: str, models_dir: Path | None) -> None:
    """Print a model's card as JSON."""
    installed = find_card(name, models_dir)
    click.echo(json.dumps(installed.card.model_dump(mode="json"), indent=2, ensure_ascii=False))


@command.command("verify")
@_name
@models_dir_option
def verify_model(name: str, models_dir: Path | None) -> None:
    """Check that a model's weights are there, whole, untampered and fit its card."""
    with notes().status(f"Verifying {name} …"):
        files = verify(name, models_dir)
    for file in files:
        stated = f"{' and '.join(file.stated)} as its card states" if file.stated else "its card states no digest"
        output().print(f"[green]✓[/] {file.part}: {escape(str(file.path))}, {file.size:,} bytes")
        output().print(f"  sha256 {file.sha256} [dim]({stated})[/]")


def _weights_present(installed: InstalledCard) -> bool:
    try:
        for file in (installed.card.adm, installed.card.student):
            installed.locate(file)
    except ModelError:
        return False
    return True
