"""What recovery costs, in seconds: each measure does one fault again and again and holds the figures against a target.

Leases and polling are the product's defaults here. Each yields what it found, and each target
with whether it was kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from signal import SIGKILL, SIGQUIT

from tests.chaos.crash_points import STAGES, request_crash
from tests.chaos.deployment import ANALYSIS_WORKERS
from tests.chaos.experiment import Experiment
from tests.chaos.load import Post, latency
from tests.chaos.report import counts, spread

_PASSING_SECONDS = 0.5
#: For what should take seconds: what takes so long has failed.
_TIMEOUT_SECONDS = 90.0
#: Submissions a second while more than enough jobs wait, and while too few do.
_TRICKLE, _FLOOD = 2.0, 40.0
_BACKLOG = 60


@dataclass(frozen=True)
class Target:
    """What was promised, and whether it was kept."""

    words: str
    kept: bool

    def __str__(self) -> str:
        return f"target: {self.words}: {'kept' if self.kept else 'NOT KEPT'}"


Line = str | Target


def recovery(experiment: Experiment, times: int) -> Iterator[Line]:
    """Kill a worker that carries jobs, in each stage in turn, while another is ready: when do they run elsewhere?"""
    lease, observer = experiment.deployment.settings.lease_seconds, experiment.observer
    kills = 0
    while _observed_kills(experiment) < times and kills < 2 * times:
        experiment.wait(lambda: all(map(experiment.deployment.ready, ANALYSIS_WORKERS)), _TIMEOUT_SECONDS)
        crash = partial(
            request_crash, experiment.deployment.crash_requests, STAGES[kills % len(STAGES)], _PASSING_SECONDS
        )
        experiment.wait(crash, _TIMEOUT_SECONDS)
        kills += 1
        experiment.pause(0.5)  # until it is known what was dropped
    experiment.wait(lambda: all(each.waited is not None for each in observer.dropped), lease + _TIMEOUT_SECONDS)
    waited = [each.waited or lease + _TIMEOUT_SECONDS for each in observer.dropped if not each.no_other_ready]
    observed = _observed_kills(experiment)
    yield f"{kills} kills, {observed} of them of jobs while another worker was ready: {len(waited)} jobs"
    yield f"from the kill to the next attempt: {spread(waited)}"
    yield Target(f"p99 at most the lease + 5 s = {lease + 5:.0f} s", percentile(waited, 99) <= lease + 5)


def _observed_kills(experiment: Experiment) -> int:
    """Count the kills that left jobs behind for a worker that was ready."""
    return len({each.killed_at for each in experiment.observer.dropped if not each.no_other_ready})


def flush(experiment: Experiment, times: int) -> Iterator[Line]:
    """Lose every wake-up of a backlog: workers stand still while jobs arrive, Valkey is flushed, workers go on."""
    waited = []
    for _ in range(times):
        for name in ANALYSIS_WORKERS:
            experiment.deployment.freeze(name)
        experiment.load.rate = _FLOOD
        experiment.wait(lambda: _queued(experiment) >= _BACKLOG, _TIMEOUT_SECONDS)
        experiment.load.rate = _TRICKLE
        with experiment.deployment.redis() as client:
            client.flushall()
        at = time.time()
        for name in ANALYSIS_WORKERS:
            experiment.deployment.thaw(name)
        waited.append(_until(experiment, "SELECT min(started_at) FROM jobs WHERE started_at > to_timestamp(%s)", at))
        experiment.wait(lambda: _queued(experiment) == 0, _TIMEOUT_SECONDS)
        experiment.pause(1)
    yield f"{times} flushes with {_BACKLOG} jobs waiting, no worker awake: next claim after {spread(waited)}"
    yield Target("each within 5 s", max(waited) <= 5)


def valkey_down(experiment: Experiment, times: int) -> Iterator[Line]:
    """Keep a backlog for `times` minutes with Valkey dead, after a fifth as long with it."""
    usual_seconds, seconds = 12.0 * times, 60.0 * times
    _keep_backlog(experiment, 20)  # warm-up
    usual = _keep_backlog(experiment, usual_seconds)
    experiment.deployment.keep_stopped("valkey")
    experiment.deployment.signal("valkey", SIGKILL)
    at = time.time()
    minutes = [_keep_backlog(experiment, 60) for _ in range(times)]
    posts = _posts_since(experiment, at)
    experiment.deployment.allow_start("valkey")
    rate = sum(minutes) / len(minutes)
    yield f"jobs finished a second: {usual:.1f} in {usual_seconds:.0f} s, {rate:.1f} in {seconds:.0f} s without Valkey"
    yield f"the slowest minute {min(minutes):.1f}; answers to POST meanwhile: {counts(post.answer for post in posts)}"
    yield f"POST p50 / p99 / max: {spread([post.seconds for post in posts])}"
    yield Target("accepted as always", {post.answer for post in posts} == {"202"})
    yield Target("no less than half of the usual rate", rate >= usual / 2)


def valkey_frozen(experiment: Experiment, times: int) -> Iterator[Line]:
    """Freeze Valkey for 70 s."""
    yield from _frozen(experiment, "valkey", times, 70)


def store_frozen(experiment: Experiment, times: int) -> Iterator[Line]:
    """Freeze the object store for a minute."""
    yield from _frozen(experiment, "s3", times, 60)


def postgres_restart(experiment: Experiment, times: int) -> Iterator[Line]:
    """Have PostgreSQL shut down immediately: when is the next job accepted, when does one accepted since end?"""
    before = _product(experiment)
    accepted, ended = [], []
    for _ in range(times):
        at = time.time()
        experiment.deployment.signal("postgres", SIGQUIT)
        experiment.wait(lambda at=at: _first_202(experiment, at) is not None, _TIMEOUT_SECONDS)  # type: ignore[misc]  # bound for this round
        accepted.append((_first_202(experiment, at) or at + _TIMEOUT_SECONDS) - at)
        ended.append(_until(experiment, "SELECT min(finished_at) FROM jobs WHERE created_at > to_timestamp(%s)", at))
        experiment.pause(3)
    yield f"{times} immediate shutdowns: next 202 after {spread(accepted)}"
    yield f"next verdict of a job accepted since: {spread(ended)}"
    yield Target("service back within 10 s", max(accepted + ended) <= 10)
    yield Target("no process of the product ended", _product(experiment) == before)


def _frozen(experiment: Experiment, target: str, times: int, seconds: float) -> Iterator[Line]:
    posts, after = list[Post](), []
    for _ in range(times):
        experiment.pause(5)
        at = time.time()
        experiment.deployment.freeze(target)
        experiment.pause(seconds)
        experiment.deployment.thaw(target)
        posts += [post for post in _posts_since(experiment, at) if post.at + post.seconds < at + seconds]
        after.append(
            _until(experiment, "SELECT min(finished_at) FROM jobs WHERE created_at > to_timestamp(%s)", time.time())
        )
    taken = [post.seconds for post in posts]
    yield f"{times} times {seconds:.0f} s: {len(posts)} POSTs answered, {counts(post.answer for post in posts)}"
    yield f"POST p50 / p99 / max: {spread(taken)}; next verdict of a job submitted afterwards: {spread(after)}"
    yield Target("p99 at most 3 s", latency(posts, 99) <= 3)
    yield Target("each answer definite", {post.answer for post in posts} <= {"202", "503"})


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile; infinite where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else float("inf")


def _keep_backlog(experiment: Experiment, seconds: float) -> float:
    """See to it that jobs always wait; return how many ended a second."""
    began, give_up_at = time.time(), time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        experiment.load.rate = _FLOOD if _queued(experiment) < _BACKLOG else _TRICKLE
        experiment.pause(0.3)
    ended = experiment.ask("SELECT count(*) FROM jobs WHERE finished_at > to_timestamp(%s)", began)
    return float(ended) / (time.time() - began)


def _queued(experiment: Experiment) -> int:
    return experiment.ask("SELECT count(*) FROM jobs WHERE state = 'queued'") or 0


def _until(experiment: Experiment, moment: str, at: float) -> float:
    """Return the seconds from `at` to the moment that a statement finds; `_TIMEOUT_SECONDS` where it finds none."""
    found: list[float] = []

    def look() -> bool:
        value = experiment.ask(f"SELECT extract(epoch FROM ({moment}))::float8", at)
        found.extend([] if value is None else [value - at])
        return bool(found)

    return found[0] if experiment.wait(look, _TIMEOUT_SECONDS) else _TIMEOUT_SECONDS


def _posts_since(experiment: Experiment, at: float) -> list[Post]:
    return [post for post in experiment.load.posts if post.at >= at]


def _first_202(experiment: Experiment, at: float) -> float | None:
    return min((post.at + post.seconds for post in _posts_since(experiment, at) if post.answer == "202"), default=None)


def _product(experiment: Experiment) -> dict[str, int]:
    return {name: pid for name, pid in experiment.deployment.pids.items() if name != "postgres"}


@dataclass(frozen=True)
class Measure:
    """One of them, and how it is usually done."""

    run: Callable[[Experiment, int], Iterator[Line]]
    times: int
    rate: float
    """Submissions a second."""


MEASURES = {
    "recovery": Measure(recovery, 100, 4),
    "flush": Measure(flush, 20, _TRICKLE),
    "valkey-down": Measure(valkey_down, 10, _TRICKLE),
    "valkey-frozen": Measure(valkey_frozen, 3, 5),
    "store-frozen": Measure(store_frozen, 3, 5),
    "postgres-restart": Measure(postgres_restart, 20, 5),
}
