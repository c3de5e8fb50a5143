"""`distildire top`."""

from __future__ import annotations

import time
from contextlib import closing, suppress
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
from shared.errors import DatabaseUnavailableError
from shared.jobs.stats import overview
from shared.presenter import present_worker
from shared.workers.registry import Role, list_workers

_EVERY_SECONDS = 1.0
#: A worker says every second that it lives.
_LATE_SECONDS, _GONE_SECONDS = 5.0, 30.0
_STATES = {"starting": "yellow", "ready": "green", "draining": "yellow"}


@click.command()
@click.option("--once", is_flag=True, help="Show this moment alone; so it is where the output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="This moment as one JSON document, and nothing else.")
@data_dir_option
def command(once: bool, as_json: bool, data_dir: Path) -> None:
    """Watch who works and what waits, over all tenants, until Ctrl-C.

    Read from the database of the settings, else from that of the running stack: so it also tells when the API is down.
    """
    console = output()
    url = server_settings(data_dir).database_url.get_secret_value()
    with closing(Database(url, pool_size=1)) as database:
        if as_json:
            print_json(look(database))
        elif once or not console.is_terminal:
            console.print(view(look(database)))
        else:
            _watch(database)


def _watch(database: Database) -> None:
    shown: RenderableType = ""
    with suppress(KeyboardInterrupt), Live(console=output(), auto_refresh=False, screen=True) as screen:
        while True:
            try:
                shown = view(look(database))
            except DatabaseUnavailableError as error:
                screen.update(Group(f"[bold red]{error.message}[/] Below is what it said last.\n", shown), refresh=True)
            else:
                screen.update(shown, refresh=True)
            time.sleep(_EVERY_SECONDS)


def look(database: Database) -> dict[str, Any]:
    """Return this moment as a document; raise `DatabaseUnavailableError`."""
    with database.begin() as session:
        now = overview(session)
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


def view(moment: dict[str, Any]) -> RenderableType:
    """Return what a person sees of it."""
    jobs, webhooks = moment["jobs"], moment["webhooks"]
    oldest = jobs["oldest_queued_seconds"]
    waited = "" if oldest is None else f" [dim](the oldest for {_span(oldest)})[/]"
    ended = ", ".join(f"{number} {state}" for state, number in jobs["ended_in_five_minutes"].items() if number)
    open_jobs = f"{jobs['queued']} queued{waited}, {jobs['running']} running"
    lines = [
        f"[bold]Jobs[/]      {open_jobs}, {jobs['per_minute']} ended in the last minute",
        f"          [dim]in five minutes: {ended or 'none ended'}[/]",
        f"[bold]Webhooks[/]  {webhooks['pending']} pending, {webhooks['due']} of them due",
    ]
    lines += [f"[bold yellow]{words}[/]" for words in _nobody(moment["workers"])]
    return Group(*lines, "", _workers(moment["workers"]) if moment["workers"] else "")


def _nobody(workers: list[dict[str, Any]]) -> list[str]:
    """Say what nobody does that must be done for jobs to end, and for webhooks to be sent."""
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
            _heard(worker["silent_seconds"]),
        )
    return table


def _heard(seconds: float) -> str:
    colour = "red" if seconds > _GONE_SECONDS else "yellow" if seconds > _LATE_SECONDS else "green"
    return f"[{colour}]{_span(seconds)} ago[/]"


def _span(seconds: float) -> str:
    """Write a time as one reads it: 4 s, 12 min, 3.5 h."""
    seconds = max(seconds, 0.0)  # by two clocks it may be less
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
