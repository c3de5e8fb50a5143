"""`python -m tests.chaos --seed N --minutes M --jobs J`: run, print the figures, exit with 1 on any broken promise.

`--soak`: faults of servers and networks alone, so that the product's processes live all the while, and judge whether
what they hold grows. `--measure NAME`: one fault, again and again, and what recovery from it costs.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from tests.chaos.deployment import DEFAULT, QUICK
from tests.chaos.experiment import loaded
from tests.chaos.faults import OUTSIDE
from tests.chaos.measures import MEASURES, Target
from tests.chaos.report import fault_lines, outcome_lines, plan_lines, verdict_lines
from tests.chaos.run import conclude, missed, run_faults
from tests.chaos.sampler import Sampler
from tests.chaos.schedule import Lane, one_pass, random_plan
from tests.chaos.soak import growth

#: Submissions for each that is accepted while faults happen: so the load ends about when they do.
_REFUSED = 1.25


def main() -> int:
    """Do as told by the command line; return the exit status."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="distildire-chaos-"))
    click.echo(f"seed {options.seed}, {_machine()}; logs and history: {folder}")
    kept = all([*_measured(options, folder)]) if options.measure else _kept(options, folder)
    return 0 if kept else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)), help="what to repeat a run by")
    parser.add_argument("--minutes", type=float, default=5, help="how long faults happen")
    parser.add_argument("--jobs", type=int, default=1000, help="how many jobs are accepted at least")
    parser.add_argument("--only", nargs="+", metavar="FAULT", help="these faults alone, by the names that runs print")
    parser.add_argument("--once", action="store_true", help="each fault once, as short as it can be: two minutes")
    parser.add_argument("--soak", action="store_true", help="only faults that no process of the product dies of")
    parser.add_argument("--measure", choices=MEASURES, help="measure this instead")
    parser.add_argument("--times", type=int, help="how often the measured fault happens")
    return parser.parse_args()


def _kept(options: argparse.Namespace, folder: Path) -> bool:
    """Run a plan; return whether every promise was kept, and in a soak nothing grew."""
    plan = _plan(options)
    rate = _REFUSED * options.jobs / (60 * options.minutes)
    click.echo(f"{options.minutes:g} minutes, {options.jobs} jobs, {rate:.1f}/s")
    _say(plan_lines(plan))
    with loaded(folder, seed=options.seed, rate=rate, clocks=DEFAULT if options.soak else QUICK) as experiment:
        sampler = Sampler(experiment.deployment, folder / "samples.csv")
        sampler.start()
        done = run_faults(experiment, plan, timeout=60 if options.once else 15)
        sampler.close()
        outcome = conclude(experiment, done, options.jobs)
    _say(outcome_lines(outcome))
    _say(fault_lines(outcome))
    click.echo(f"not done: {', '.join(missed(plan, done)) or 'none'}")
    lines, flat = growth(sampler.series)
    _say(lines)
    _say(verdict_lines(outcome))
    return not outcome.violations and (flat or not options.soak)


def _plan(options: argparse.Namespace) -> list[Lane]:
    if options.once:
        return one_pass(options.seed, rest=0.5)
    if options.soak:
        return random_plan(options.seed, 60 * options.minutes, sorted(fault.name for fault in OUTSIDE), calm=4)
    return random_plan(options.seed, 60 * options.minutes, options.only or ())


def _measured(options: argparse.Namespace, folder: Path) -> Iterator[bool]:
    """Carry out a measure; yield of each target whether it was kept, and whether every promise was."""
    measure = MEASURES[options.measure]
    times = options.times or measure.times
    click.echo(f"{options.measure}, {times} times, {measure.rate:g}/s")
    with loaded(folder, seed=options.seed, rate=measure.rate, clocks=DEFAULT) as experiment:
        for line in measure.run(experiment, times):
            click.echo(str(line))
            if isinstance(line, Target):
                yield line.kept
        outcome = conclude(experiment, [], 0)
    _say(verdict_lines(outcome))
    yield not outcome.violations


def _say(lines: Iterator[str] | list[str]) -> None:
    click.echo("\n".join(lines))


def _machine() -> str:
    load = os.getloadavg()[0]
    return f"{len(os.sched_getaffinity(0))} cores, load {load:.1f}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
