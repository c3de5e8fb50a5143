"""`distildire top`."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from deploy.commands.options import data_dir_option
from deploy.connection import server_settings
from deploy.terminal.console import output
from deploy.terminal.streams import print_json
from shared.database.engine import Database
from shared.domain import Role
from shared.errors import DatabaseUnavailableError
from shared.jobs.stats import service_stats
from shared.presenter import present_worker
from shared.workers.registry import list_workers

_EVERY_SECONDS = 1.0
#: A worker says every second that it lives.
_LATE_SECONDS, _GONE_SECONDS = 5.0, 30.0
_STATES = {"starting": "yellow", "ready": "green", "draining": "yellow"}


@click.command()
@click.option(
    "--once", is_flag=True, help="Show the present state once, and end. Output that is no terminal always gets this."
)
@click.option("--json", "as_json", is_flag=True, help="The present state as one JSON document, and nothing else.")
@data_dir_option
def command(once: bool, as_json: bool, data_dir: Path) -> None:
    """Watch who works and what waits, over all tenants, until Ctrl-C.

    Read from the database of the settings, else from that of the running stack: so it also tells when the API is down.
    """
    console = output()
    url = server_settings(data_dir).database_url.get_secret_value()
    with Database(url, pool_size=1) as database:
        if as_json:
            print_json(read_snapshot(database))
        elif once or not console.is_terminal:
            console.print(render(read_snapshot(database)))
        else:
            _watch(database)


def _watch(database: Database) -> None:
    shown: RenderableType = ""
    with suppress(KeyboardInterrupt), Live(console=output(), auto_refresh=False, screen=True) as screen:
        while True:
            try:
                shown = render(read_snapshot(database))
            except DatabaseUnavailableError as error:
                screen.update(Group(f"[bold red]{error.message}[/] Below is what it said last.\n", shown), refresh=True)
            else:
                screen.update(shown, refresh=True)
            time.sleep(_EVERY_SECONDS)


def read_snapshot(database: Database) -> dict[str, Any]:
    """Return what stands in the database now, as a document; raise `DatabaseUnavailableError`."""
    with database.begin() as session:
        now = service_stats(session)
        workers = [present_worker(worker, silence) for worker, silence in list_workers(session)]
    return {
        "jobs": {
            "queued": now.queued,
            "oldest_queued_seconds": now.oldest_queued_seconds,
            "running": now.running,
            "ended_in_five_minutes": now.ended,
            "per_minute": now.jobs_per_minute,
        },
        "webhooks": {"pending": now.webhooks_pending, "due": now.webhooks_due},
        "workers": workers,
    }


def render(snapshot: dict[str, Any]) -> RenderableType:
    """Return the snapshot as a person reads it."""
    jobs, webhooks = snapshot["jobs"], snapshot["webhooks"]
    oldest = jobs["oldest_queued_seconds"]
    waited = "" if oldest is None else f" [dim](the oldest for {_span(oldest)})[/]"
    ended = ", ".join(f"{number} {state}" for state, number in jobs["ended_in_five_minutes"].items() if number)
    open_jobs = f"{jobs['queued']} queued{waited}, {jobs['running']} running"
    lines = [
        f"[bold]Jobs[/]      {open_jobs}, {jobs['per_minute']} ended in the last minute",
        f"          [dim]in five minutes: {ended or 'none ended'}[/]",
        f"[bold]Webhooks[/]  {webhooks['pending']} pending, {webhooks['due']} of them due",
    ]
    lines += [f"[bold yellow]{words}[/]" for words in _missing_roles(snapshot["workers"])]
    return Group(*lines, "", _workers(snapshot["workers"]) if snapshot["workers"] else "")


def _missing_roles(workers: list[dict[str, Any]]) -> list[str]:
    """Name the roles that no worker fills, without which jobs do not end or webhooks are not sent."""
    living = {worker["role"] for worker in workers if worker["silent_seconds"] <= _GONE_SECONDS}
    losses = {Role.ANALYSIS: "jobs wait", Role.WEBHOOKS: "webhooks wait"}
    return [
        f"No {role} worker is running: {loss}. `distildire doctor` says what to do."
        for role, loss in losses.items()
        if role not in living
    ]


def _workers(workers: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold dim")
    for title in ("role", "host", "pid", "state", "busy", "model", "device", "version", "heard of"):
        table.add_column(title, justify="right" if title in ("pid", "busy", "heard of") else "left")
    for worker in workers:
        computes = " ".join(filter(None, (worker["device"], worker["precision"])))
        table.add_row(
            worker["role"],
            escape(worker["host"]),
            str(worker["pid"]),
            f"[{_STATES[worker['state']]}]{worker['state']}[/]",
            f"{worker['busy']}/{worker['slots']}" if worker["slots"] else "",
            escape(worker["model"] or ""),
            computes,
            worker["version"],
            _heartbeat_age(worker["silent_seconds"]),
        )
    return table


def _heartbeat_age(seconds: float) -> str:
    colour = "red" if seconds > _GONE_SECONDS else "yellow" if seconds > _LATE_SECONDS else "green"
    return f"[{colour}]{_span(seconds)} ago[/]"


def _span(seconds: float) -> str:
    """Write a time as one reads it: 4 s, 12 min, 3.5 h."""
    seconds = max(seconds, 0.0)  # by two clocks it may be less
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
