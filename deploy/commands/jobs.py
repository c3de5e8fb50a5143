"""`distildire jobs`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import click

from deploy.commands.options import data_dir_option
from deploy.connection import server_settings
from deploy.records import open_database, show_rows
from deploy.terminal import notes
from shared.admission import FullError
from shared.database import Database
from shared.errors import ObjectMissingError
from shared.intake import Intake, UnknownPolicyError
from shared.jobs import JobState
from shared.listing import TenantsJob, find_jobs, list_dead, list_open
from shared.object_store import ObjectStore
from shared.settings import Settings

_MOST = 1_000


@click.group()
def command() -> None:
    """Look at all tenants' open and dead jobs, and run dead ones again."""


@command.command("list")
@click.option("--dead", is_flag=True, help="Those that failed for no fault of their image, and were not replayed yet.")
@click.option("--limit", type=click.IntRange(1, _MOST), default=50, show_default=True, help="The most jobs to show.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document a job on standard output, nothing else.")
@data_dir_option
def list_some(dead: bool, limit: int, as_json: bool, data_dir: Path) -> None:
    """List jobs that wait or run, the next to expire first; or with --dead those that are dead, newest first."""
    with open_database(server_settings(data_dir)) as database, database.begin() as session:
        found = (list_dead if dead else list_open)(session, limit)
    rows = [
        {
            "id": str(job.id),
            "tenant": tenant,
            "status": job.state,
            "error": job.error_code,
            "attempt": job.attempt,
            "created": f"{job.created_at:%Y-%m-%d %H:%M}",
            "finished": f"{job.finished_at:%Y-%m-%d %H:%M}" if job.finished_at else None,
        }
        for job, tenant in found
    ]
    show_rows(("id", "tenant", "status", "error", "attempt", "created", "finished"), rows, as_json=as_json)


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
    settings = server_settings(data_dir)
    with open_database(settings) as database:
        with database.begin() as session:
            found = list_dead(session, _MOST) if all_dead else find_jobs(session, job_ids)
        replayed = _replay_each(found, settings, database)
    missing = {*job_ids} - {job.id for job, _ in found}
    for job_id in missing:
        notes().print(f"{job_id}: there is no such job.")
    sys.exit(0 if replayed == len(found) and not missing else 1)


def _replay_each(found: Sequence[TenantsJob], settings: Settings, database: Database) -> int:
    """Replay what can be; say why what cannot be is not. Return how many were."""
    intake, replayed = Intake(database, ObjectStore(settings), settings), 0
    for job, _ in found:
        if not JobState(job.state).replayable:
            notes().print(f"{job.id}: it is {job.state}; only what failed or expired is replayed.")
        elif job.model not in (None, settings.model):
            notes().print(f"{job.id}: it asks for the model {job.model}, which is not served here.")
        else:
            try:
                click.echo(intake.replay(job, priority=job.priority).id)
                replayed += 1
            except ObjectMissingError:
                notes().print(f"{job.id}: its image is no longer in the store.")
            except UnknownPolicyError:
                notes().print(f"{job.id}: it asks for the policy {job.policy}, which the workers do not have.")
            except FullError as full:
                notes().print(f"{job.id}: {full.message} A part should have ended in {full.retry_after} s.")
    return replayed
