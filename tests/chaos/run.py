"""One run: start everything, load it, do to it what the plan says, wait until it is quiet, check the history."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

import httpx
import psycopg2

from shared.crypto import Vault
from shared.database import Database
from shared.keys import create_key
from tests.chaos.checker import Violation, check
from tests.chaos.deployment import ANALYSIS_WORKERS, Deployment, Ended, running
from tests.chaos.evidence import Evidence
from tests.chaos.faults import Fault, Signal
from tests.chaos.gather import gather
from tests.chaos.history import History
from tests.chaos.load import TENANTS, Load, Post
from tests.chaos.logbook import Logbook, read_logs
from tests.chaos.receiver import endpoints_of
from tests.chaos.schedule import Planned
from tests.chaos.witness import Dropped, Witness

#: How long a fault waits for something that it can be done to.
_TARGET_SECONDS = 15.0
_TICK_SECONDS = 0.05
#: How long everything may take to come to rest after the last fault and the last submission.
_QUIET_SECONDS = 180.0


@dataclass
class Done:
    """A fault that was done, by the clock of the epoch."""

    fault: Fault
    began: float
    ended: float
    until: float
    first_verdict: float | None = None
    """Seconds from its end to the next job that ended."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    evidence: Evidence
    violations: Sequence[Violation]
    faults: Sequence[Done]
    posts: Sequence[Post]
    dropped: Sequence[Dropped]
    ended: Sequence[Ended]
    logbook: Logbook
    quiet_seconds: float
    """From the last submission to the last job's and webhook's end."""


def run(folder: Path, plan: Sequence[Planned], *, seed: int, jobs: int, rate: float) -> Outcome:
    """Do `plan` under a load of `rate` submissions a second, until it is over and `jobs` were accepted."""
    with running(folder, seed) as deployment:
        endpoints = endpoints_of(deployment.receiver, TENANTS)
        keys = _tenants(deployment, endpoints)
        history, witness = History(folder / "history.jsonl"), Witness(deployment)
        load = Load(deployment.api_url, keys, history, seed=seed, rate=rate)
        witness.start()
        load.start()
        try:
            done = _carry_out(deployment, witness, plan)
            load.end_after(jobs)
            while load.running or deployment.stopping:
                _wait(deployment)
        finally:
            load.close()
        quiet = _come_to_rest(deployment)
        witness.close()
        history.close()
        evidence = gather(deployment, history, witness, endpoints)
        _time_verdicts(deployment, done)
        return Outcome(
            evidence,
            check(evidence),
            done,
            load.posts,
            witness.dropped,
            deployment.ended,
            read_logs(deployment.logs),
            quiet,
        )


def _tenants(deployment: Deployment, endpoints: dict[str, list[str]]) -> dict[str, str]:
    """Make the tenants with their webhook endpoints; return their keys by name."""
    settings = deployment.settings
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    with database.begin() as session:
        vault = Vault(settings.secret_key.get_secret_value())
        keys = {tenant: create_key(session, vault, tenant=tenant).key for tenant in endpoints}
    database.close()
    for tenant, urls in endpoints.items():
        for url in urls:
            answer = httpx.post(
                f"{deployment.api_url}/v1/webhook-endpoints",
                json={"url": url},
                headers={"Authorization": f"Bearer {keys[tenant]}"},
                trust_env=False,
            )
            answer.raise_for_status()
    return keys


def _carry_out(deployment: Deployment, witness: Witness, plan: Sequence[Planned]) -> list[Done]:
    """Begin and end each fault at its time; return those for which there was something to do."""
    began, done = time.monotonic(), []
    waiting, lasting = list(plan), list[tuple[float, Done]]()
    while waiting or lasting:
        now = time.monotonic() - began
        while waiting and waiting[0].at <= now:
            planned = waiting.pop(0)
            fault = _begin(deployment, witness, planned)
            if fault is None and now < planned.at + _TARGET_SECONDS:
                waiting.insert(0, planned)  # what it is done to is still being started again
                break
            if fault is not None:
                done.append(fault)
                lasting.append((now + planned.seconds, fault))
        for item in [item for item in lasting if item[0] <= now]:
            lasting.remove(item)
            item[1].fault.end(deployment)
            item[1].ended = time.time()
        _wait(deployment)
    return done


def _begin(deployment: Deployment, witness: Witness, planned: Planned) -> Done | None:
    fault, at = planned.fault, time.time()
    carrier = fault.target if isinstance(fault, Signal) and fault.number is SIGKILL else ""
    pid = deployment.pid(carrier) if carrier in ANALYSIS_WORKERS else None
    if not fault.begin(deployment):
        fault.end(deployment)
        return None
    if pid is not None:
        others = [name for name in ANALYSIS_WORKERS if name != carrier]
        witness.worker_killed(pid, alone=not any(deployment.ready(name) for name in others))
    return Done(fault, at, at, at)


def _wait(deployment: Deployment) -> None:
    deployment.tend()
    time.sleep(_TICK_SECONDS)


def _come_to_rest(deployment: Deployment) -> float:
    """Wait until no job and no webhook waits; return how long that took. What does not end will be found stuck.

    The tries of a webhook are up to a day apart: those that wait for one are made due at once.
    """
    began = time.monotonic()
    while time.monotonic() < began + _QUIET_SECONDS:
        _wait(deployment)
        with (
            contextlib.suppress(psycopg2.Error),
            contextlib.closing(deployment.postgres()) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(
                "UPDATE webhook_deliveries SET next_attempt_at = now() "
                "WHERE state = 'pending' AND next_attempt_at > now() + interval '1 second'"
            )
            cursor.execute(
                "SELECT (SELECT count(*) FROM jobs WHERE finished_at IS NULL), "
                "(SELECT count(*) FROM webhook_deliveries WHERE state = 'pending')"
            )
            if cursor.fetchone() == (0, 0):
                break
        time.sleep(0.5)
    return time.monotonic() - began


def _time_verdicts(deployment: Deployment, done: Sequence[Done]) -> None:
    """Note how soon after each fault's end a job ended."""
    with contextlib.closing(deployment.postgres()) as connection, connection.cursor() as cursor:
        for each in done:
            cursor.execute(
                "SELECT extract(epoch FROM min(finished_at))::float8 FROM jobs WHERE finished_at > to_timestamp(%s)",
                (each.ended,),
            )
            found = cursor.fetchone()
            if found is not None and found[0] is not None:
                each.first_verdict = found[0] - each.ended
