"""`distildire db`."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.commands.options import data_dir_option
from deploy.connection import server_settings
from deploy.terminal import notes
from migrations.upgrade import upgrade as upgrade_schema


@click.group()
def command() -> None:
    """Bring the database's schema up to date."""


@command.command()
@data_dir_option
def upgrade(data_dir: Path) -> None:
    """Apply all migrations that are missing; harmless where there are none."""
    upgrade_schema(server_settings(data_dir).database_url.get_secret_value())
    notes().print("The database's schema is up to date.")
