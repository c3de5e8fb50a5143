"""`python -m tests.chaos.rolling --restarts 50`: each process of the product in turn is told to stop and started anew.

So often, under load. It prints how they ended and what that did to jobs and webhooks; exits with 1 on a broken promise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from signal import SIGTERM

import click

from tests.chaos.deployment import ANALYSIS_WORKERS, DEFAULT
from tests.chaos.experiment import Experiment, loaded
from tests.chaos.load import latency
from tests.chaos.logbook import Logbook, read_logs
from tests.chaos.measures import Line, Target
from tests.chaos.report import counts, verdict_lines
from tests.chaos.run import conclude
from tests.chaos.supervised import Ended

PROCESSES = ("api", *ANALYSIS_WORKERS, "webhook_worker", "beat")
_STOP_SECONDS = 30.0
#: For an end or a start on a busy machine: what takes so long has failed.
_TIMEOUT_SECONDS = 120.0
_RATE = 4.0


def restart_all(experiment: Experiment) -> Iterator[Ended]:
    """Stop each process in turn, and wait until it works again; yield how each ended."""
    deployment = experiment.deployment
    for name in PROCESSES:
        before = len(deployment.ended)
        deployment.signal(name, SIGTERM)
        experiment.wait(lambda before=before: len(deployment.ended) > before, _TIMEOUT_SECONDS)  # type: ignore[misc]  # bound for this round
        yield from deployment.ended[before:]
        experiment.wait(lambda name=name: deployment.ready(name), _TIMEOUT_SECONDS)  # type: ignore[misc]


def rolling(experiment: Experiment, restarts: int) -> Iterator[Line]:
    """Restart everything so often; hold what became of it against what was promised."""
    began, ended = time.monotonic(), list[Ended]()
    for _ in range(restarts):
        ended += restart_all(experiment)
    taken = sorted(each.stop_seconds or 0.0 for each in ended)
    yield f"{restarts} rolling restarts, {len(ended)} processes ended, in {time.monotonic() - began:.0f} s"
    yield f"exit statuses: {counts(f'{each.name} {each.code}' for each in ended)}"
    yield f"from SIGTERM to the end: p50 {taken[len(taken) // 2]:.1f} s, the longest {taken[-1]:.1f} s"
    posts = experiment.load.posts
    yield f"answers to POST: {counts(post.answer for post in posts)}; p99 {latency(posts, 99):.1f} s"
    yield Target(
        "each process ended when told to, with 0", len(ended) == restarts * len(PROCESSES) and _all_zero(ended)
    )
    yield Target(f"each within {_STOP_SECONDS:.0f} s", taken[-1] <= _STOP_SECONDS)


def _all_zero(ended: Sequence[Ended]) -> bool:
    return not any(each.code for each in ended)


def consequences(experiment: Experiment, logbook: Logbook) -> Iterator[Line]:
    """What the restarts did to jobs and webhooks, once all are at rest."""
    deaths = experiment.ask("SELECT coalesce(sum(deaths), 0) + count(*) FILTER (WHERE suspect) FROM jobs")
    again = experiment.ask("SELECT coalesce(sum(attempt - 1), 0) FROM jobs WHERE attempt > 1")
    unbegun = logbook.attempts["released, yes"]
    tries = experiment.ask("SELECT coalesce(sum(attempt - 1), 0) FROM webhook_deliveries WHERE attempt > 1")
    yield f"second attempts: {again}; given back before they were begun: {unbegun}; errors: {_listed(logbook.errors)}"
    yield Target("no death counted, nobody suspected", deaths == 0)
    yield Target("no job was begun twice", again is not None and again <= unbegun)
    yield Target("no webhook was sent twice", tries == 0)


def _listed(errors: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in errors.items()) or "none"


def run(folder: Path, *, seed: int, restarts: int) -> Iterator[Line]:
    """Do all of it; yield each figure and each target."""
    with loaded(folder, seed=seed, rate=_RATE, clocks=DEFAULT) as experiment:
        yield from rolling(experiment, restarts)
        outcome = conclude(experiment, [], 0)
        yield f"accepted {len(outcome.evidence.accepted)}"
        yield from consequences(experiment, read_logs(experiment.deployment.logs))
        yield from verdict_lines(outcome)
        yield Target("nothing lost, doubled, stuck or changed", not outcome.violations)


def main() -> int:
    """Run as told by the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.rolling", description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="what to repeat the load by")
    parser.add_argument("--restarts", type=int, default=50, help="how often each process is restarted")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="distildire-rolling-"))
    click.echo(f"seed {options.seed}; logs and history: {folder}")
    kept = True
    for line in run(folder, seed=options.seed, restarts=options.restarts):
        click.echo(str(line))
        kept &= not isinstance(line, Target) or line.kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
