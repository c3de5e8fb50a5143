"""What recovery costs, in seconds: each measure does one fault again and again and holds the figures against a target.

Leases and polling are the product's defaults here. Each yields what it found, and each target
with whether it was kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from signal import SIGKILL, SIGQUIT

from tests.chaos.deaths import STAGES, have_one_die
from tests.chaos.deployment import ANALYSIS_WORKERS
from tests.chaos.load import Post, latency
from tests.chaos.report import counts, spread
from tests.chaos.scene import Scene

_PASSING_SECONDS = 0.5
#: For what should take seconds: what takes so long has failed.
_PATIENCE = 90.0
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


def recovery(scene: Scene, times: int) -> Iterator[Line]:
    """Kill a worker that carries jobs, in each stage in turn, while another is ready: when do they run elsewhere?"""
    lease, witness = scene.deployment.settings.lease_seconds, scene.witness
    kills = 0
    while _witnessed(scene) < times and kills < 2 * times:
        scene.wait(lambda: all(map(scene.deployment.ready, ANALYSIS_WORKERS)), _PATIENCE)
        point = STAGES[kills % len(STAGES)]
        scene.wait(lambda point=point: have_one_die(scene.deployment.orders, point, _PASSING_SECONDS), _PATIENCE)  # type: ignore[misc]  # bound for this round
        kills += 1
        scene.pause(0.5)  # until it is known what was dropped
    scene.wait(lambda: all(each.waited is not None for each in witness.dropped), lease + _PATIENCE)
    waited = [each.waited or lease + _PATIENCE for each in witness.dropped if not each.alone]
    yield f"{kills} kills, {_witnessed(scene)} of them of jobs while another worker was ready: {len(waited)} jobs"
    yield f"from the kill to the next attempt: {spread(waited)}"
    yield Target(f"p99 at most the lease + 5 s = {lease + 5:.0f} s", percentile(waited, 99) <= lease + 5)


def _witnessed(scene: Scene) -> int:
    """Count the kills that left jobs behind for a worker that was ready."""
    return len({each.killed_at for each in scene.witness.dropped if not each.alone})


def flush(scene: Scene, times: int) -> Iterator[Line]:
    """Lose every wake-up of a backlog: workers stand still while jobs arrive, Valkey is flushed, workers go on."""
    waited = []
    for _ in range(times):
        for name in ANALYSIS_WORKERS:
            scene.deployment.freeze(name)
        scene.load.rate = _FLOOD
        scene.wait(lambda: _queued(scene) >= _BACKLOG, _PATIENCE)
        scene.load.rate = _TRICKLE
        with scene.deployment.redis() as client:
            client.flushall()
        at = time.time()
        for name in ANALYSIS_WORKERS:
            scene.deployment.thaw(name)
        waited.append(_until(scene, "SELECT min(started_at) FROM jobs WHERE started_at > to_timestamp(%s)", at))
        scene.wait(lambda: _queued(scene) == 0, _PATIENCE)
        scene.pause(1)
    yield f"{times} flushes with {_BACKLOG} jobs waiting, no worker awake: next claim after {spread(waited)}"
    yield Target("each within 5 s", max(waited) <= 5)


def valkey_down(scene: Scene, times: int) -> Iterator[Line]:
    """Keep a backlog for `times` minutes with Valkey dead, after a fifth as long with it."""
    usual_seconds, seconds = 12.0 * times, 60.0 * times
    _keep_backlog(scene, 20)  # warm-up
    usual = _keep_backlog(scene, usual_seconds)
    scene.deployment.hold_down("valkey")
    scene.deployment.signal("valkey", SIGKILL)
    at = time.time()
    minutes = [_keep_backlog(scene, 60) for _ in range(times)]
    posts = _posts_since(scene, at)
    scene.deployment.let_up("valkey")
    rate = sum(minutes) / len(minutes)
    yield f"jobs finished a second: {usual:.1f} in {usual_seconds:.0f} s, {rate:.1f} in {seconds:.0f} s without Valkey"
    yield f"the slowest minute {min(minutes):.1f}; answers to POST meanwhile: {counts(post.answer for post in posts)}"
    yield f"POST p50 / p99 / max: {spread([post.seconds for post in posts])}"
    yield Target("accepted as always", {post.answer for post in posts} == {"202"})
    yield Target("no less than half of the usual rate", rate >= usual / 2)


def valkey_frozen(scene: Scene, times: int) -> Iterator[Line]:
    """Freeze Valkey for 70 s."""
    yield from _frozen(scene, "valkey", times, 70)


def store_frozen(scene: Scene, times: int) -> Iterator[Line]:
    """Freeze the object store for a minute."""
    yield from _frozen(scene, "s3", times, 60)


def postgres_restart(scene: Scene, times: int) -> Iterator[Line]:
    """Have PostgreSQL shut down immediately: when is the next job accepted, when does one accepted since end?"""
    before = _product(scene)
    accepted, ended = [], []
    for _ in range(times):
        at = time.time()
        scene.deployment.signal("postgres", SIGQUIT)
        scene.wait(lambda at=at: _first_202(scene, at) is not None, _PATIENCE)  # type: ignore[misc]  # bound for this round
        accepted.append((_first_202(scene, at) or at + _PATIENCE) - at)
        ended.append(_until(scene, "SELECT min(finished_at) FROM jobs WHERE created_at > to_timestamp(%s)", at))
        scene.pause(3)
    yield f"{times} immediate shutdowns: next 202 after {spread(accepted)}"
    yield f"next verdict of a job accepted since: {spread(ended)}"
    yield Target("service back within 10 s", max(accepted + ended) <= 10)
    yield Target("no process of the product ended", _product(scene) == before)


def _frozen(scene: Scene, target: str, times: int, seconds: float) -> Iterator[Line]:
    posts, after = list[Post](), []
    for _ in range(times):
        scene.pause(5)
        at = time.time()
        scene.deployment.freeze(target)
        scene.pause(seconds)
        scene.deployment.thaw(target)
        posts += [post for post in _posts_since(scene, at) if post.at + post.seconds < at + seconds]
        after.append(
            _until(scene, "SELECT min(finished_at) FROM jobs WHERE created_at > to_timestamp(%s)", time.time())
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


def _keep_backlog(scene: Scene, seconds: float) -> float:
    """See to it that jobs always wait; return how many ended a second."""
    began, give_up_at = time.time(), time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        scene.load.rate = _FLOOD if _queued(scene) < _BACKLOG else _TRICKLE
        scene.pause(0.3)
    ended = scene.ask("SELECT count(*) FROM jobs WHERE finished_at > to_timestamp(%s)", began)
    return float(ended) / (time.time() - began)


def _queued(scene: Scene) -> int:
    return scene.ask("SELECT count(*) FROM jobs WHERE state = 'queued'") or 0


def _until(scene: Scene, moment: str, at: float) -> float:
    """Return the seconds from `at` to the first moment that a statement finds; `_PATIENCE` where there is none."""
    found: list[float] = []

    def look() -> bool:
        value = scene.ask(f"SELECT extract(epoch FROM ({moment}))::float8", at)
        found.extend([] if value is None else [value - at])
        return bool(found)

    return found[0] if scene.wait(look, _PATIENCE) else _PATIENCE


def _posts_since(scene: Scene, at: float) -> list[Post]:
    return [post for post in scene.load.posts if post.at >= at]


def _first_202(scene: Scene, at: float) -> float | None:
    return min((post.at + post.seconds for post in _posts_since(scene, at) if post.answer == "202"), default=None)


def _product(scene: Scene) -> dict[str, int]:
    return {name: pid for name, pid in scene.deployment.pids.items() if name != "postgres"}


@dataclass(frozen=True)
class Measure:
    """One of them, and how it is usually done."""

    carry_out: Callable[[Scene, int], Iterator[Line]]
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
