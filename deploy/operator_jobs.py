"""The operator's commands on all tenants' jobs: list the open or dead ones, and run dead ones again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import click

from deploy.connection import server_settings
from deploy.terminal.console import notes
from deploy.terminal.tables import open_database, show_rows
from shared.database.engine import Database
from shared.errors import ObjectMissingError
from shared.jobs.admission import FullError, QuotaError
from shared.jobs.queries import TenantsJob, find_jobs, list_dead, list_open
from shared.jobs.submission import Submissions, UnknownPolicyError
from shared.presenter import timestamp
from shared.settings import Settings
from shared.storage.object_store import ObjectStore

#: The most jobs that one command shows, or runs again.
MOST = 1_000


def show(data_dir: Path, limit: int, *, dead: bool, as_json: bool) -> None:
    """Print open jobs, or dead ones."""
    with open_database(server_settings(data_dir)) as database, database.begin() as session:
        found = (list_dead if dead else list_open)(session, limit)
    rows = [
        {
            "id": str(job.id),
            "tenant": tenant,
            "status": job.state,
            "error": job.error_code,
            "attempt": job.attempt,
            "created": timestamp(job.created_at),
            "finished": timestamp(job.finished_at),
        }
        for job, tenant in found
    ]
    show_rows(("id", "tenant", "status", "error", "attempt", "created", "finished"), rows, as_json=as_json)


def replay(data_dir: Path, job_ids: Sequence[UUID], *, all_dead: bool) -> bool:
    """Run jobs again and print the id of each new one; return whether all could be run again."""
    settings = server_settings(data_dir)
    with open_database(settings) as database:
        with database.begin() as session:
            found = list_dead(session, MOST) if all_dead else find_jobs(session, job_ids)
        replayed = _replay_each(found, settings, database)
    missing = {*job_ids} - {job.id for job, _ in found}
    for job_id in missing:
        notes().print(f"{job_id}: there is no such job.")
    return replayed == len(found) and not missing


def _replay_each(found: Sequence[TenantsJob], settings: Settings, database: Database) -> int:
    """Replay each job, or say why it cannot be. Return how many were replayed."""
    submissions, replayed = Submissions(database, ObjectStore(settings), settings), 0
    for job, _ in found:
        if not job.state.replayable:
            notes().print(f"{job.id}: it is {job.state}; only what failed or expired is replayed.")
        elif job.model not in (None, settings.model):
            notes().print(f"{job.id}: it asks for the model {job.model}, which is not served here.")
        else:
            try:
                click.echo(submissions.replay(job, priority=job.priority).id)
                replayed += 1
            except ObjectMissingError:
                notes().print(f"{job.id}: its image is no longer in the store.")
            except UnknownPolicyError:
                notes().print(f"{job.id}: it asks for the policy {job.policy}, which the workers do not have.")
            except (FullError, QuotaError) as full:
                notes().print(f"{job.id}: {full.message} Try again in {full.retry_after} s.")
    return replayed
