"""`python -m tests.chaos --seed N --minutes M --jobs J`: run, print the figures, exit with 1 on any violation."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

import click

from tests.chaos.report import outcome_lines, plan_lines
from tests.chaos.run import run
from tests.chaos.schedule import random_plan


def main() -> int:
    """Run as told by the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)), help="what to repeat a run by")
    parser.add_argument("--minutes", type=float, default=5, help="how long faults happen")
    parser.add_argument("--jobs", type=int, default=1000, help="how many jobs are accepted at least")
    parser.add_argument("--only", nargs="+", metavar="FAULT", help="these faults alone, by the names that runs print")
    options = parser.parse_args()
    plan = random_plan(options.seed, 60 * options.minutes, options.only or ())
    rate = options.jobs / (60 * options.minutes)
    click.echo(f"seed {options.seed}: {options.minutes:g} minutes, {options.jobs} jobs, {rate:.1f}/s, {_machine()}")
    click.echo("\n".join(plan_lines(plan)))
    folder = Path(tempfile.mkdtemp(prefix="distildire-chaos-"))
    click.echo(f"logs and history: {folder}")
    outcome = run(folder, plan, seed=options.seed, jobs=options.jobs, rate=rate)
    click.echo("\n".join(outcome_lines(outcome)))
    return 1 if outcome.violations else 0


def _machine() -> str:
    load = os.getloadavg()[0]
    return f"{len(os.sched_getaffinity(0))} cores, load {load:.1f}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
