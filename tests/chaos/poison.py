"""`python -m tests.chaos.poison --jobs 1000 --kind batch-segfault …`: what one image in a hundred does to the others.

Two analysis workers with flaws that the kinds of `tests/support/poison.py` find; a load below what they can do, in
bursts of four; first without poison, then for each kind with one image in a hundred. It prints what became of the
poison and of its neighbours, and exits with 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import httpx

from deploy.local.programs import StackProcess
from shared.crypto import Vault
from shared.database.engine import Database
from shared.settings import Settings
from shared.tenants.api_keys import create_key
from tests.chaos import supervised
from tests.chaos.checker import Broken, check
from tests.chaos.deployment import ANALYSIS_WORKERS, DEFAULT, Clocks, Deployment
from tests.chaos.evidence import TERMINAL, Accepted
from tests.chaos.gather import gather
from tests.chaos.history import History
from tests.chaos.observer import Observer
from tests.support.bad_images import photograph, saved
from tests.support.poison import BY_NAME, POISONS, Poison

_ONE_IN = 100
_BURST = 4
#: So many jobs without poison show what is usual.
_USUAL_JOBS = 300
_CLIENTS = 64
_TICK_SECONDS = 0.05
_QUIET_SECONDS = 180.0
#: What is promised.
_SLOWEST_POISON, _SLOWER_NEIGHBOURS = 60.0, 2.0
#: Of the history: `broken_promises` knows which job is poison.
_LOOKED_AT = {Broken.EXHAUSTED, Broken.OVERCOUNTED}
#: Of one worker: enough for the model with room to spare, so that it is full before the machine is.
_MEMORY = 1_500_000_000
_DECODER_MEMORY = 300_000_000


@dataclass(frozen=True)
class JobOutcome:
    """What became of one job."""

    state: str
    code: str | None
    deaths: int
    seconds: float
    """From its acceptance to its end."""


@dataclass(frozen=True)
class LoadResult:
    """What came of one load."""

    poison: Sequence[JobOutcome]
    neighbours: Sequence[JobOutcome]
    refused: Counter[str]
    """Answers to submissions other than 202."""
    ended: Sequence[supervised.Ended]
    """Workers that ended meanwhile."""


class FlawedDeployment(Deployment):
    """A deployment whose analysis workers have flaws."""

    def _settings(self, models_dir: Path, proxy_port: int, clocks: Clocks) -> Settings:
        usual = super()._settings(models_dir, proxy_port, clocks)
        return usual.model_copy(update={"memory_bytes": _MEMORY, "decode_memory_bytes": _DECODER_MEMORY})

    def _stack_processes(self, folder: Path, port: int) -> Iterator[StackProcess]:
        for process in super()._stack_processes(folder, port):
            if process.name in ANALYSIS_WORKERS:
                flawed = "tests.processes.poisoned_worker"
                yield supervised.running(process, flawed, instead_of="tests.chaos.crashing_worker")
            else:
                yield process


class PoisonLoad:
    """Submits to a deployment, and waits until all that it accepted has ended."""

    def __init__(self, deployment: Deployment, history: History, rate: float, seed: int) -> None:
        self._deployment = deployment
        self._history = history
        self._rate = rate
        self._seed = seed
        self._image = saved(photograph(), "JPEG")
        self._client = httpx.Client(
            base_url=deployment.api_url, headers=_key_of(deployment.settings), timeout=20, trust_env=False
        )

    def feed(self, jobs: int, poison: Poison | None) -> LoadResult:
        """Submit so many images, every hundredth of them poison, and wait for their ends."""
        chance, due, ended_before = random.Random(self._seed), time.monotonic(), len(self._deployment.ended)
        with ThreadPoolExecutor(_CLIENTS) as clients:
            answers = []
            for first in range(0, jobs, _BURST):
                due += _BURST * chance.expovariate(self._rate)
                self._supervise_until(due)
                for number in range(first, min(first + _BURST, jobs)):
                    is_poison = poison is not None and number % _ONE_IN == _ONE_IN // 4
                    answers.append((is_poison, clients.submit(self._submit, poison if is_poison else None)))
            given = [(is_poison, answer.result()) for is_poison, answer in answers]
        accepted = {job: is_poison for is_poison, (status, job) in given if status == "202"}
        self._wait_ended(list(accepted))
        outcomes = self._outcomes(list(accepted))
        return LoadResult(
            [outcome for job, outcome in outcomes.items() if accepted[job]],
            [outcome for job, outcome in outcomes.items() if not accepted[job]],
            Counter(status for _, (status, _) in given if status != "202"),
            [each for each in self._deployment.ended[ended_before:] if each.name in ANALYSIS_WORKERS],
        )

    def _submit(self, poison: Poison | None) -> tuple[str, str]:
        """Return the answer's status and the job's id."""
        image = self._image if poison is None else poison.image()
        try:
            response = self._client.post("/v1/jobs", files={"image": ("image", image)})
        except httpx.TransportError as error:
            return type(error).__name__, ""
        if response.status_code != httpx.codes.ACCEPTED:
            return str(response.status_code), ""
        job = response.json()["id"]
        self._history.accepted(Accepted(job, "tenant", hashlib.sha256(image).hexdigest(), time.time()))
        return "202", job

    def _supervise_until(self, moment: float) -> None:
        while time.monotonic() < moment:
            self._deployment.restart_ended()
            time.sleep(min(_TICK_SECONDS, max(0.0, moment - time.monotonic())))

    def _wait_ended(self, jobs: list[str]) -> None:
        give_up_at = time.monotonic() + _QUIET_SECONDS
        while time.monotonic() < give_up_at:
            self._supervise_until(time.monotonic() + 0.5)
            if all(outcome.state in TERMINAL for outcome in self._outcomes(jobs).values()):
                break
        while not all(self._deployment.ready(name) for name in ANALYSIS_WORKERS) and time.monotonic() < give_up_at:
            self._supervise_until(time.monotonic() + 0.5)  # the next load finds what this one found

    def _outcomes(self, jobs: list[str]) -> dict[str, JobOutcome]:
        with contextlib.closing(self._deployment.postgres()) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT id::text, state, error_code, deaths, "
                "extract(epoch FROM coalesce(finished_at, now()) - created_at)::float8 "
                "FROM jobs WHERE id = ANY(%s::uuid[])",
                (jobs,),
            )
            return {job: JobOutcome(*rest) for job, *rest in cursor.fetchall()}


def main() -> int:
    """Run as told by the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.poison", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="how many are submitted, for each kind")
    parser.add_argument("--kind", nargs="+", choices=BY_NAME, default=list(BY_NAME), help="all if not given")
    parser.add_argument("--rate", type=float, default=2.0, help="submissions a second")
    parser.add_argument("--seed", type=int, default=7, help="of the moments of submissions")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    click.echo(
        f"{options.jobs} jobs for each kind, {options.rate:g}/s, seed {options.seed}, "
        f"{len(os.sched_getaffinity(0))} cores, load {load:.1f}, Python {platform.python_version()}"
    )
    folder = Path(tempfile.mkdtemp(prefix="distildire-poison-"))
    click.echo(f"logs: {folder}")
    broken = _run_all(folder, options)
    for line in broken:
        click.echo(f"BROKEN {line}")
    return 1 if broken else 0


def _run_all(folder: Path, options: argparse.Namespace) -> list[str]:
    """Print what each kind did; return the broken promises."""
    broken: list[str] = []
    with _running(folder, options.seed) as deployment, contextlib.closing(History(folder / "history")) as history:
        observer = Observer(deployment)
        observer.start()
        load = PoisonLoad(deployment, history, options.rate, options.seed)
        # Once: should the machine get busier, that counts against the promise.
        baseline = load.feed(min(options.jobs, _USUAL_JOBS), None)
        _say("no poison", baseline)
        for poison in (each for each in POISONS if each.name in options.kind):
            run = load.feed(options.jobs, poison)
            _say(poison.name, run)
            broken += [f"{poison.name}: {what}" for what in broken_promises(poison, run, baseline)]
        observer.close()
        evidence = gather(deployment, history, observer, {}, [])
        found = [each for each in check(evidence) if each.broken not in _LOOKED_AT]
        click.echo(f"history: {len(evidence.accepted)} accepted, {len(found)} violations")
        return broken + [str(each) for each in found]


def broken_promises(poison: Poison, run: LoadResult, baseline: LoadResult) -> Iterator[str]:
    """Yield each promise that a run with poison broke."""
    for outcome in run.poison:
        if (outcome.state, outcome.code) != ("failed", poison.code):
            yield f"a poison ended as {outcome.state} {outcome.code}, not {poison.code}"
        if outcome.seconds > _SLOWEST_POISON:
            yield f"a poison took {outcome.seconds:.0f} s"
    for outcome in run.neighbours:
        if outcome.state != "succeeded" or outcome.deaths:
            yield f"a neighbour ended as {outcome.state} {outcome.code} with {outcome.deaths} deaths counted"
    slow, usual = _percentile(run.neighbours, 95), _percentile(baseline.neighbours, 95)
    if slow > _SLOWER_NEIGHBOURS * usual:
        yield f"the neighbours' p95 went from {usual:.2f} to {slow:.2f} s"
    if run.refused:
        yield f"submissions were refused: {dict(run.refused)}"


def _say(name: str, run: LoadResult) -> None:
    codes = Counter(f"{outcome.state} {outcome.code or ''}".strip() for outcome in run.neighbours)
    p50, p95, slowest = (_percentile(run.neighbours, percent) for percent in (50, 95, 100))
    click.echo(
        f"{name:22} neighbours: {dict(codes)}, {sum(outcome.deaths for outcome in run.neighbours)} deaths counted, "
        f"p50 {p50:.2f} s, p95 {p95:.2f} s, max {slowest:.1f} s"
    )
    if run.poison:
        codes = Counter(f"{outcome.state} {outcome.code or ''}" for outcome in run.poison)
        click.echo(
            f"{'':22} poison: {dict(codes)}, deaths counted {sorted({outcome.deaths for outcome in run.poison})}, "
            f"slowest {max(outcome.seconds for outcome in run.poison):.1f} s; "
            f"workers that ended: {len(run.ended)} {dict(Counter(each.code for each in run.ended)) or ''}"
        )


def _percentile(outcomes: Sequence[JobOutcome], percent: float) -> float:
    ordered = sorted(outcome.seconds for outcome in outcomes)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


@contextlib.contextmanager
def _running(folder: Path, seed: int) -> Iterator[Deployment]:
    deployment = FlawedDeployment(folder, seed, {}, DEFAULT)
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.close()


def _key_of(settings: Settings) -> dict[str, str]:
    """Make a tenant; return the header that its key goes into."""
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    with database, database.begin() as session:
        key = create_key(session, Vault(settings.secret_key.get_secret_value()), tenant="tenant").key
    return {"Authorization": f"Bearer {key}"}


if __name__ == "__main__":
    sys.exit(main())
