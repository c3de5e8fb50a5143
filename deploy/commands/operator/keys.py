"""`distildire keys`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import click

from deploy.commands.options import data_dir_option
from deploy.connection import server_settings
from deploy.terminal.console import notes
from deploy.terminal.groups import SuggestingGroup
from deploy.terminal.tables import open_database, show_rows
from shared.crypto import Vault
from shared.presenter import timestamp
from shared.tenants.api_keys import USUAL_SCOPES, Scope, create_key, list_keys, revoke_key


@click.group(cls=SuggestingGroup)
def command() -> None:
    """Create, list and revoke API keys: in the database of the settings, else in that of the running stack."""


@command.command()
@click.option("--tenant", required=True, help="The tenant that the key is for; made if it does not exist.")
@click.option("--name", default="default", show_default=True, help="What the key is for.")
@click.option(
    "--priority", type=click.IntRange(-100, 100), default=0, show_default=True, help="Higher is served first."
)
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(list(Scope)),
    multiple=True,
    default=USUAL_SCOPES,
    show_default=True,
    help="What the key may do; give it once for each scope.",
)
@click.option(
    "--expires-days", type=click.IntRange(1, 36_500), help="Days after which the key ends; it never does if not given."
)
@click.option("--operator", is_flag=True, help="Also opens what is the operator's: the list of workers.")
@data_dir_option
def create(
    tenant: str,
    name: str,
    priority: int,
    scopes: tuple[Scope, ...],
    expires_days: int | None,
    operator: bool,
    data_dir: Path,
) -> None:
    """Make a key and print it; it cannot be shown again."""
    settings = server_settings(data_dir)
    vault = Vault(settings.secret_key.get_secret_value())
    expires_at = datetime.now(UTC) + timedelta(days=expires_days) if expires_days else None
    with open_database(settings) as database, database.begin() as session:
        made = create_key(
            session,
            vault,
            tenant=tenant,
            name=name,
            priority=priority,
            operator=operator,
            scopes=scopes,
            expires_at=expires_at,
        )
    click.echo(made.key)
    notes().print(f"Key {made.id} of {tenant}. Keep it now: only a hash of it is stored.")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document a key on standard output, nothing else.")
@data_dir_option
def list_all(as_json: bool, data_dir: Path) -> None:
    """List all keys, by their last characters."""
    with open_database(server_settings(data_dir)) as database, database.begin() as session:
        rows = [
            {
                "id": str(key.id),
                "tenant": tenant,
                "name": key.name,
                "key": f"{key.prefix or ''}…{key.hint}",
                "scopes": ", ".join(key.scopes),
                "operator": key.operator,
                "created": timestamp(key.created_at),
                "expires": timestamp(key.expires_at),
                "last_used": timestamp(key.last_used_at),
                "revoked": timestamp(key.revoked_at),
            }
            for key, tenant in list_keys(session)
        ]
    show_rows(tuple(rows[0]) if rows else ("id",), rows, as_json=as_json)


@command.command()
@click.argument("key_id", metavar="ID", type=click.UUID)
@data_dir_option
def revoke(key_id: UUID, data_dir: Path) -> None:
    """Revoke a key at once, by its id."""
    with open_database(server_settings(data_dir)) as database, database.begin() as session:
        revoked = revoke_key(session, key_id)
    unknown = f"There is no living key {key_id}; `distildire keys list` shows all."
    notes().print(f"Key {key_id} is revoked." if revoked else unknown)
    sys.exit(0 if revoked else 1)
