"""`distildire db`."""

from __future__ import annotations

import os
from pathlib import Path

import click
from sqlalchemy.exc import ProgrammingError

from deploy.commands.options import data_dir_option
from deploy.connection import server_settings
from deploy.terminal.console import notes
from deploy.terminal.groups import SuggestingGroup
from migrations.upgrade import prepare_roles
from migrations.upgrade import upgrade as upgrade_schema
from shared.database.row_level_security import API_ROLE, WORKER_ROLE


@click.group(cls=SuggestingGroup)
def command() -> None:
    """Bring the database's schema up to date."""


@command.command()
@data_dir_option
def upgrade(data_dir: Path) -> None:
    """Apply all migrations that are missing; harmless where there are none."""
    upgrade_schema(server_settings(data_dir).database_url.get_secret_value())
    notes().print("The database's schema is up to date.")


@command.command()
@data_dir_option
def roles(data_dir: Path) -> None:
    """Make the roles distildire_api and distildire_worker, or grant them what they lack; harmless to repeat.

    With the environment's API_PASSWORD and WORKER_PASSWORD they may log in; give the API and the workers these logins
    instead of the owner's, and PostgreSQL itself keeps tenants apart. Without passwords, grant the roles to logins of
    yours.
    """
    passwords = _passwords()
    try:
        prepare_roles(server_settings(data_dir).database_url.get_secret_value(), passwords)
    except ProgrammingError as error:
        raise click.ClickException(f"The roles cannot be made or changed: {str(error.orig).strip()}") from None
    who = " and ".join(passwords) or "Nobody"
    notes().print(f"The roles have their rights. {who} may log in with the passwords given.")


def _passwords() -> dict[str, str]:
    """The passwords that the environment holds, by role."""
    found = {
        #: The password that `distildire db roles` gives the role `distildire_api`.
        API_ROLE: os.environ.get("API_PASSWORD"),
        #: The password that `distildire db roles` gives the role `distildire_worker`.
        WORKER_ROLE: os.environ.get("WORKER_PASSWORD"),
    }
    return {role: password for role, password in found.items() if password}
