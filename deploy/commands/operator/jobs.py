"""`distildire jobs`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from deploy.commands.options import data_dir_option
from deploy.connection import connect
from deploy.terminal.console import notes
from deploy.terminal.exits import INTERRUPTED
from deploy.terminal.groups import SuggestingGroup
from deploy.terminal.streams import print_json
from deploy.terminal.unfinished import tell_unfinished
from deploy.terminal.verdicts import Row, VerdictView
from shared.client import ApiRefusedError, StillRunningError, SubmittedJob
from shared.percentages import probability_percent

_MOST = 1_000
_json = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document a job on standard output, nothing else."
)
_ids = click.argument("job_ids", metavar="ID…", nargs=-1, required=True, type=click.UUID)


@click.group(cls=SuggestingGroup)
def command() -> None:
    """Show, follow and cancel jobs by the API; list all tenants' open and dead jobs, and run dead ones again.

    `show`, `wait` and `cancel` need no extra.
    """


@command.command()
@_ids
@_json
@data_dir_option
def show(job_ids: tuple[UUID, ...], as_json: bool, data_dir: Path) -> None:
    """Show jobs as they stand, by the API that `submit` uses.

    The exit code is 0 if all are there, 1 if one is not.
    """
    with connect(data_dir) as client:
        found = _each(client.get, job_ids)
    _present(found, as_json=as_json)
    sys.exit(0 if len(found) == len(job_ids) else 1)


@command.command()
@_ids
@click.option("--timeout", type=click.FloatRange(min=0), default=3600, show_default=True, help="Seconds, at most.")
@_json
@data_dir_option
def wait(job_ids: tuple[UUID, ...], timeout: float, as_json: bool, data_dir: Path) -> None:
    """Follow jobs to their ends; they continue where this is stopped.

    The exit code is 0 if each has a verdict, 1 if one has none, 130 if the command was stopped.
    """
    rows = {str(job_id): Row(str(job_id)) for job_id in job_ids}
    documents: dict[str, Mapping[str, Any]] = {}
    interrupted = False
    with connect(data_dir) as client, VerdictView([*rows.values()], as_json=as_json, of_jobs=True) as view:

        def note(job: SubmittedJob) -> None:
            documents[job.id] = job.document
            rows[job.id].show(job)
            view.refresh(rows[job.id])

        def refuse(row: Row, problem: str) -> None:
            row.problem = problem
            view.note(f"{row.name}: {problem}") if as_json else view.refresh(row)

        try:
            for job_id, row in rows.items():
                try:
                    note(client.get(job_id))
                except ApiRefusedError as error:
                    refuse(row, error.message)
            with suppress(StillRunningError):
                client.wait([job_id for job_id, row in rows.items() if not row.ended], note, seconds=timeout)
        except KeyboardInterrupt:
            interrupted = True
    if as_json:
        for document in documents.values():
            print_json(document)
    else:
        view.conclude()
    if unfinished := [(job_id, "") for job_id, row in rows.items() if not row.ended]:
        notes().print("Stopped." if interrupted else f"Not all jobs ended within {timeout:g} s.")
        tell_unfinished(unfinished, data_dir)
    if interrupted:
        sys.exit(INTERRUPTED)
    sys.exit(0 if all(row.result is not None for row in rows.values()) else 1)


@command.command()
@_ids
@_json
@data_dir_option
def cancel(job_ids: tuple[UUID, ...], as_json: bool, data_dir: Path) -> None:
    """Cancel jobs that have not ended.

    The exit code is 0 if all are canceled, 1 if one had ended otherwise or is not there.
    """
    with connect(data_dir) as client:
        found = _each(client.cancel, job_ids)
    _present(found, as_json=as_json)
    sys.exit(0 if len(found) == len(job_ids) else 1)


@command.command("list")
@click.option("--dead", is_flag=True, help="Those that failed for no fault of their image, and were not replayed yet.")
@click.option("--limit", type=click.IntRange(1, _MOST), default=50, show_default=True, help="The most jobs to show.")
@_json
@data_dir_option
def list_some(dead: bool, limit: int, as_json: bool, data_dir: Path) -> None:
    """List jobs that wait or run, the next to expire first; or with --dead those that are dead, newest first."""
    from deploy import operator_jobs

    operator_jobs.show(data_dir, limit, dead=dead, as_json=as_json)


@command.command()
@click.argument("job_ids", metavar="[ID]…", nargs=-1, type=click.UUID)
@click.option("--all-dead", is_flag=True, help="Every job that `jobs list --dead` shows, at most 1,000 at once.")
@data_dir_option
def replay(job_ids: tuple[UUID, ...], all_dead: bool, data_dir: Path) -> None:
    """Run jobs that failed or expired again, as new jobs of their tenants; print the id of each new job.

    The limits of open jobs hold. The exit code is 0 if all were accepted, 1 if not.
    """
    if all_dead == bool(job_ids):
        raise click.UsageError("Give the ids of jobs, or --all-dead.")
    from deploy import operator_jobs

    sys.exit(0 if operator_jobs.replay(data_dir, job_ids, all_dead=all_dead) else 1)


def _each(ask: Callable[[str], SubmittedJob], job_ids: Sequence[UUID]) -> list[SubmittedJob]:
    """Ask for each; say on standard error why one that was refused is not among the answers."""
    found = []
    for job_id in job_ids:
        try:
            found.append(ask(str(job_id)))
        except ApiRefusedError as error:
            notes().print(f"{job_id}: {error.message}", markup=False)
    return found


def _present(found: Sequence[SubmittedJob], *, as_json: bool) -> None:
    for job in found:
        if as_json:
            print_json(job.document)
        else:
            click.echo(_line(job))


def _line(job: SubmittedJob) -> str:
    """A job in a line: its id, how it stands, and what came of it."""
    if job.result is not None:
        told = f"{job.result['prediction']} {probability_percent(job.result['confidence'])}"
    else:
        told = job.problem or job.stage or ""
    return "  ".join(filter(None, (job.id, job.status, told)))
