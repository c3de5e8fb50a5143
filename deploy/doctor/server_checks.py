"""What `distildire doctor` asks the servers, and the remedy for each wrong answer.

Where PostgreSQL is away, a check that needs it says so; a remedy of its own would mislead.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from deploy.doctor.check_result import CheckResult
from deploy.local.stack_file import StackDocument
from migrations.upgrade import is_current
from shared.crypto import SecretKeyChangedError, Vault
from shared.database.engine import Database, reason
from shared.database.row_level_security import API_ROLE, WORKER_ROLE
from shared.database.tables import WebhookEndpoint, WorkerRow
from shared.domain import Role, WorkerState
from shared.errors import DatabaseUnavailableError, DistildireError
from shared.jobs.stats import newest_jobs, oldest_snapshot
from shared.jobs.tally import oldest_waiting_seconds, totals
from shared.settings import Settings, unknown_settings
from shared.storage.object_store import ObjectStore, job_prefix
from shared.tenants.api_keys import authenticate

_STUCK_SECONDS = 10  # an idle worker looks for jobs every 2 seconds
#: A worker beats every second; one that has been silent for longer does nothing.
_LIVING_SECONDS = 10
_OLD_SNAPSHOT_SECONDS = 300
#: The roles as which a client is connected, directly or by a login that has the role.
_CONNECTED = text("""
    SELECT DISTINCT role.rolname
    FROM pg_roles role JOIN pg_stat_activity client ON pg_has_role(client.usesysid, role.oid, 'member')
    WHERE role.rolname = ANY(:roles) AND client.datname = current_database()
      AND NOT (SELECT rolsuper FROM pg_roles WHERE oid = client.usesysid) ORDER BY 1
""")
#: How many of the newest rows of each kind are looked at.
_SAMPLE = 10


@dataclass(frozen=True)
class CheckedServers:
    """The servers that are asked, and whose they are."""

    settings: Settings
    stack: StackDocument | None
    """The stack of this machine where they are its own."""
    data_dir: Path

    @property
    def up(self) -> str:
        """What starts what is missing of the stack of this machine."""
        return f"`distildire up --data-dir {shlex.quote(str(self.data_dir))}`"

    def remedy(self, server: str, log: str, setting: str) -> str:
        """What to do where a server does not answer."""
        if self.stack is not None:
            return f"{self.up} starts it again; {self.data_dir}/logs/{log} says why it ended"
        return f"start {server}, or correct {setting}"


def check_servers(servers: CheckedServers) -> Iterator[CheckResult]:
    """Ask each server; what is in the database only where that answers."""
    for name, meant in unknown_settings().items():
        said = f"there is no such setting{f'; {meant} is one' if meant else ''}"
        yield CheckResult(name, said, "correct the name, or leave it out", optional=True)
    with Database(servers.settings.database_url.get_secret_value(), pool_size=1) as database:
        reached = _postgres(servers, database)
        yield reached
        if reached.faulty:
            away = "cannot be looked at while PostgreSQL does not answer"
            yield CheckResult(
                "schema, queue, workers, secret key, images", away, "start PostgreSQL first", optional=True
            )
        else:
            yield from _database(servers, database)
    yield _redis(servers)
    yield _store(servers)


def _postgres(servers: CheckedServers, database: Database) -> CheckResult:
    try:
        database.ping()
    except DatabaseUnavailableError as error:
        found = reason(error.__cause__) if isinstance(error.__cause__, DBAPIError) else error.message
        remedy = servers.remedy("PostgreSQL", "postgres.log", "DISTILDIRE_DATABASE_URL")
        return CheckResult("PostgreSQL", found, remedy)
    return CheckResult("PostgreSQL", "answers")


def _database(servers: CheckedServers, database: Database) -> Iterator[CheckResult]:
    schema = _schema(servers)
    yield schema
    if schema.faulty:
        yield CheckResult(
            "queue, workers, secret key, images", "cannot be looked at", "upgrade it first", optional=True
        )
        return
    for check in (_isolation, _workers, _queue, _snapshots, _secret_key, _images):
        try:
            yield check(servers, database)
        except (DistildireError, SQLAlchemyError) as error:
            subject = check.__name__.strip("_").replace("_", " ")
            yield CheckResult(subject, f"cannot be looked at ({type(error).__name__})", "run `distildire doctor` again")


def _schema(servers: CheckedServers) -> CheckResult:
    try:
        current = is_current(servers.settings.database_url.get_secret_value())
    except DistildireError as error:
        return CheckResult("database schema", error.message, "run `distildire doctor` again")
    if current:
        return CheckResult("database schema", "is at the newest revision")
    return CheckResult("database schema", "is not at the newest revision", "run `distildire db upgrade`")


def _isolation(_servers: CheckedServers, database: Database) -> CheckResult:
    """Whether row-level security keeps tenants apart: a process that connects as the owner sees all of them."""
    subject = "isolation of tenants"
    with database.begin() as session:
        guarded = session.scalar(text("SELECT row_security_active('jobs')"))
        found = session.scalars(_CONNECTED, {"roles": [API_ROLE, WORKER_ROLE]}).all()
    if guarded or found:
        return CheckResult(subject, "PostgreSQL keeps it for " + ", ".join(found or ["this login"]))
    return CheckResult(subject, "no process uses it", "`distildire db roles`, as docs/security.md says", optional=True)


def _workers(servers: CheckedServers, database: Database) -> CheckResult:
    """Find roles without a worker; that is a fault only while a job waits."""
    with database.begin() as session:
        living = session.execute(
            select(WorkerRow.role, func.count())
            .where(WorkerRow.state != WorkerState.STARTING)
            .where(WorkerRow.heartbeat_at > func.now() - text(f"interval '{_LIVING_SECONDS} seconds'"))
            .group_by(WorkerRow.role)
        )
        counts = {str(role): int(count) for role, count in living}
        waiting = totals(session).jobs_waiting
    told = ", ".join(f"{counts.get(role, 0)} {role}" for role in (Role.ANALYSIS, Role.WEBHOOKS, Role.BEAT))
    missing = [role for role in (Role.ANALYSIS, Role.WEBHOOKS) if not counts.get(role)]
    if not missing:
        return CheckResult("workers", told)
    nobody = f"no {' and no '.join(missing)} worker runs ({told}); {waiting} jobs wait"
    return CheckResult("workers", nobody, _start_workers(servers), optional=not waiting)


def _start_workers(servers: CheckedServers) -> str:
    if servers.stack is not None:
        return f"{servers.up} starts what is missing; the logs are in {servers.data_dir}/logs/"
    return "start them, or look into their logs: docs/operations.md"


def _queue(_servers: CheckedServers, database: Database) -> CheckResult:
    """Find a job that no worker takes, although workers seem to run: one may hang."""
    with database.begin() as session:
        now, seconds = totals(session), oldest_waiting_seconds(session) or 0
    if now.jobs_waiting and not now.jobs_running and seconds > _STUCK_SECONDS:
        found = f"no job runs, and of {now.jobs_waiting} that wait the oldest has done so for {seconds:.0f} s"
        return CheckResult("queue", found, "look into the analysis worker's log: docs/operations.md")
    return CheckResult("queue", f"{now.jobs_waiting} jobs wait, {now.jobs_running} run")


def _snapshots(_servers: CheckedServers, database: Database) -> CheckResult:
    """Find a transaction that keeps PostgreSQL from removing dead rows: every table and index grows meanwhile."""
    with database.begin() as session:
        held = oldest_snapshot(session)
    if held is None or held.seconds < _OLD_SNAPSHOT_SECONDS:
        return CheckResult("old snapshots", "none is held")
    holder = f"{held.application or 'a client without a name'} (process {held.pid})" if held.pid else held.application
    end = f"`SELECT pg_terminate_backend({held.pid})`" if held.pid else "`COMMIT PREPARED` or `ROLLBACK PREPARED`"
    found = f"{holder} has held one for {held.seconds / 60:.0f} min, and tables grow until it ends"
    return CheckResult("old snapshots", found, f"wait for it if it is a dump, else end it: {end}", optional=True)


def _secret_key(servers: CheckedServers, database: Database) -> CheckResult:
    """Whether the secret key is the one that this database was written with, as after it was restored."""
    vault = Vault(servers.settings.secret_key.get_secret_value())
    key = servers.stack.api_key if servers.stack else os.environ.get("DISTILDIRE_API_KEY")
    with database.begin() as session:
        newest = select(WebhookEndpoint.secret_encrypted).order_by(WebhookEndpoint.created_at.desc()).limit(_SAMPLE)
        secrets = session.scalars(newest).all()
        known = authenticate(session, vault, key) is not None if key else None
    unread = sum(not _reads(vault, secret) for secret in secrets)
    remedy = (
        "put back the DISTILDIRE_SECRET_KEY that the database was written with; with another one every API key and "
        "webhook endpoint must be made anew"
    )
    if unread:
        return CheckResult("secret key", f"reads none of {unread} webhook secrets, of {len(secrets)} looked at", remedy)
    if known is False:
        return CheckResult("secret key", "does not open the API key that is known here", remedy)
    if secrets or known:
        return CheckResult("secret key", "is the one that the database was written with")
    told = "cannot be told from another: there is no webhook endpoint, and no API key is known here"
    return CheckResult(
        "secret key",
        told,
        "set DISTILDIRE_API_KEY to a key of this installation, and run `distildire doctor` again",
        optional=True,
    )


def _reads(vault: Vault, secret: bytes) -> bool:
    try:
        vault.decrypt(secret)
    except SecretKeyChangedError:
        return False
    return True


def _images(servers: CheckedServers, database: Database) -> CheckResult:
    """Whether the store has the images of the jobs that the database has, as after one of both was restored."""
    with database.begin() as session:
        newest = newest_jobs(session, _SAMPLE)
    store = ObjectStore(servers.settings)
    try:
        missing = sum(not store.keys(job_prefix(tenant, job)) for tenant, job in newest)
    except DistildireError:
        return CheckResult(
            "images",
            "cannot be looked at while the store does not answer",
            "start the store first",
            optional=True,
        )
    if missing:
        found = f"{missing} of {len(newest)} recent jobs have nothing in the bucket {servers.settings.s3_bucket}"
        return CheckResult(
            "images", found, "restore the bucket that belongs to this database, or correct DISTILDIRE_S3_BUCKET"
        )
    return CheckResult(
        "images", f"of {len(newest)} recent jobs, all have theirs in the store" if newest else "there are none yet"
    )


def _redis(servers: CheckedServers) -> CheckResult:
    url = servers.settings.redis_url.get_secret_value()
    try:
        with redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3) as client:
            client.ping()
    except redis.RedisError as error:
        remedy = servers.remedy("Redis", "valkey.log", "DISTILDIRE_REDIS_URL")
        return CheckResult("Redis", f"does not answer ({type(error).__name__})", remedy)
    return CheckResult("Redis", "answers")


def _store(servers: CheckedServers) -> CheckResult:
    try:
        ObjectStore(servers.settings).ping()
    except DistildireError as error:
        return CheckResult(
            "S3 store", error.message, servers.remedy("the store and make its bucket", "s3.log", "DISTILDIRE_S3_*")
        )
    return CheckResult("S3 store", f"answers, with bucket {servers.settings.s3_bucket}")
