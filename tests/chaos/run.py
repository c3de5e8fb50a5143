"""One run: do to the service what the plan says, wait until it is quiet, check the history."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg2

from tests.chaos.checker import Violation, check
from tests.chaos.deployment import ANALYSIS_WORKERS, Deployment
from tests.chaos.evidence import Evidence
from tests.chaos.experiment import Experiment
from tests.chaos.faults import LONG, Fault, LockJobs, TerminateBackends
from tests.chaos.gather import find_ghosts, gather
from tests.chaos.load import Post
from tests.chaos.logbook import Logbook, read_logs
from tests.chaos.observer import Dropped
from tests.chaos.schedule import Lane
from tests.chaos.supervised import Ended

#: How long everything may take to come to rest after the last fault and the last submission.
_QUIET_SECONDS = 180.0
#: Faults after which a worker may find that its leases have ended.
_AWAY = LockJobs | TerminateBackends
_OVER = object()


@dataclass
class Done:
    """A fault that was done, by the clock of the epoch."""

    fault: Fault
    began: float
    ended: float
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


def run_faults(experiment: Experiment, plan: Sequence[Lane], *, timeout: float = 15) -> list[Done]:
    """Begin and end each fault at its time; return those for which there was something to do.

    A fault waits for `timeout` seconds for what it can be done to; more than that only costs others.
    """
    began, done = time.monotonic(), list[Done]()
    reserved: set[str] = set()
    lanes = [_drive(experiment.deployment, lane, began, done, reserved, timeout) for lane in plan]
    while lanes:
        lanes = [lane for lane in lanes if next(lane, _OVER) is not _OVER]
        experiment.tick()
    return done


def missed(plan: Sequence[Lane], done: Sequence[Done]) -> list[str]:
    """Return the names of the planned faults for which there never was an occasion."""
    did = {each.fault for each in done}
    return sorted({planned.fault.name for lane in plan for planned in lane if planned.fault not in did})


def conclude(experiment: Experiment, done: Sequence[Done], jobs: int) -> Outcome:
    """End the load when `jobs` were accepted, wait until nothing is left to do, and check what is there."""
    experiment.load.end_after(jobs)
    while experiment.load.running or experiment.deployment.stopping:
        experiment.tick()
    experiment.load.close()
    quiet = _come_to_rest(experiment)
    experiment.observer.close()
    incidents = _incidents(experiment.deployment, done)
    evidence = gather(experiment.deployment, experiment.history, experiment.observer, experiment.endpoints, incidents)
    _time_verdicts(experiment.deployment, done)
    return Outcome(
        evidence,
        check(evidence),
        done,
        experiment.load.posts,
        experiment.observer.dropped,
        experiment.deployment.ended,
        read_logs(experiment.deployment.logs),
        quiet,
    )


def _drive(
    deployment: Deployment, lane: Lane, began: float, done: list[Done], reserved: set[str], timeout: float
) -> Iterator[None]:
    """Do the faults of a lane, one after the other; yields between looks.

    What a long fault is done to is `reserved`: a short one would end it.
    """
    for planned in lane:
        while time.monotonic() < began + planned.at:
            yield
        fault = planned.fault
        if fault.target in reserved or not fault.possible(deployment):
            continue
        give_up_at = time.monotonic() + timeout
        while (happened := _begin(deployment, fault)) is None and time.monotonic() < give_up_at:
            yield  # what it is done to is still being started again
        if happened is None:
            continue
        done.append(happened)
        until, ours = time.monotonic() + planned.seconds, {fault.target} if fault in LONG else set()
        reserved |= ours
        while time.monotonic() < until:
            yield
        reserved -= ours
        fault.end(deployment)
        happened.ended = time.time()


def _begin(deployment: Deployment, fault: Fault) -> Done | None:
    at = time.time()
    if fault.begin(deployment):
        return Done(fault, at, at)
    fault.end(deployment)
    return None


def _come_to_rest(experiment: Experiment) -> float:
    """Wait until nothing is left to do; return how long that took. What does not end will be found stuck.

    The tries of a webhook are up to a day apart: those that wait for one are made due at once.
    """
    began = time.monotonic()
    while not _at_rest(experiment.deployment) and time.monotonic() < began + _QUIET_SECONDS:
        experiment.pause(0.5)
    return time.monotonic() - began


def _at_rest(deployment: Deployment) -> bool:
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
        return cursor.fetchone() == (0, 0) and not find_ghosts(connection, deployment.pids.values())
    return False


def _incidents(deployment: Deployment, done: Sequence[Done]) -> list[float]:
    """Return when workers may have lost jobs: they ended, were frozen, or could not reach the database."""
    ends = [end.at for end in deployment.ended if end.name in ANALYSIS_WORKERS]
    outages = [each.began for each in done if each.fault.target == "postgres" or isinstance(each.fault, _AWAY)]
    return ends + deployment.frozen + outages


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
