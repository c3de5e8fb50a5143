"""`distildire tenants`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from deploy.commands.options import data_dir_option
from deploy.connection import server_settings
from deploy.terminal.console import notes
from deploy.terminal.groups import SuggestingGroup
from deploy.terminal.tables import open_database, show_rows
from shared.domain import DEFAULT, POLICY_NAME
from shared.jobs import tally
from shared.presenter import timestamp
from shared.tenants.tenants import change_tenant, list_tenants
from shared.workers.registry import policy_is_served


class _Limit(click.ParamType[int | str]):
    """A whole number of at least 1, or `default`: what the settings say."""

    name = f"N|{DEFAULT}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Read what was typed."""
        if value == DEFAULT:
            return DEFAULT
        return click.IntRange(min=1, max=2**31 - 1).convert(value, param, ctx)


class _Policy(click.ParamType[str]):
    """What a policy may be called, or `default`: none."""

    name = f"NAME|{DEFAULT}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read what was typed."""
        if not re.fullmatch(POLICY_NAME, value):
            self.fail("a policy's name is 1 to 100 letters, digits, dots, dashes and underscores", param, ctx)
        return str(value)


@click.group(cls=SuggestingGroup)
def command() -> None:
    """List tenants, set their limits and policies. `distildire keys create` makes a tenant with its first key."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document a tenant on standard output, nothing else.")
@data_dir_option
def list_all(as_json: bool, data_dir: Path) -> None:
    """List all tenants with their limits; what is empty is as the settings, or the model's card, say."""
    with open_database(server_settings(data_dir)) as database, database.begin() as session:
        open_jobs = tally.open_jobs_of_all(session)
        rows = [
            {
                "name": tenant.name,
                "id": str(tenant.id),
                "open_jobs": open_jobs.get(tenant.id, 0),
                "max_open_jobs": tenant.max_open_jobs,
                "max_daily_device_seconds": tenant.max_daily_device_seconds,
                "retention_days": tenant.retention_days,
                "policy": tenant.policy,
                "created": timestamp(tenant.created_at),
            }
            for tenant in list_tenants(session)
        ]
    show_rows(
        ("name", "id", "open", "most open", "device s/day", "kept for days", "policy", "created"), rows, as_json=as_json
    )


@command.command("set")
@click.argument("name")
@click.option("--max-open-jobs", type=_Limit(), metavar=_Limit.name, help="The most jobs that may wait or run.")
@click.option(
    "--max-daily-device-seconds",
    type=_Limit(),
    metavar=_Limit.name,
    help="Device seconds a day (UTC) after which the tenant may submit no more jobs.",
)
@click.option(
    "--retention-days",
    type=_Limit(),
    metavar=_Limit.name,
    help="Days after which an ended job is deleted with all its bytes.",
)
@click.option("--policy", type=_Policy(), metavar=_Policy.name, help="Calls the verdicts of jobs that name no policy.")
@data_dir_option
def set_all(
    name: str,
    max_open_jobs: int | str | None,
    max_daily_device_seconds: int | str | None,
    retention_days: int | str | None,
    policy: str | None,
    data_dir: Path,
) -> None:
    """Give the tenant NAME limits and a policy of its own, at once; `default` takes one back."""
    given = {
        "max_open_jobs": max_open_jobs,
        "max_daily_device_seconds": max_daily_device_seconds,
        "retention_days": retention_days,
        "policy": policy,
    }
    changes = {column: None if value == DEFAULT else value for column, value in given.items() if value is not None}
    if not changes:
        raise click.UsageError("Nothing to set: see `distildire tenants set --help`.")
    settings = server_settings(data_dir)
    with open_database(settings) as database, database.begin() as session:
        known = change_tenant(session, name, changes)
        chosen = changes.get("policy")
        served = chosen is None or policy_is_served(session, str(chosen), settings.model)
    unknown = f"There is no tenant {name!r}; `distildire tenants list` shows all."
    notes().print(f"Set for {name}." if known else unknown)
    if known and served is False:
        notes().print(f"No worker has the policy {chosen!r}: its jobs fail until one does.", markup=False)
    elif known and served is None:
        notes().print(f"No worker is there to say whether there is a policy {chosen!r}.", markup=False)
    sys.exit(0 if known else 1)
