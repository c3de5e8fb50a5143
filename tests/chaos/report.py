"""The figures of a run, as text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from tests.chaos.checker import Broken
from tests.chaos.load import Post, latency
from tests.chaos.run import Done, Outcome
from tests.chaos.schedule import Lane
from tests.chaos.supervised import Ended


def plan_lines(plan: Sequence[Lane]) -> Iterator[str]:
    """The schedule."""
    for planned in sorted((each for lane in plan for each in lane), key=lambda planned: planned.at):
        lasts = f" for {planned.seconds:.1f} s" if planned.seconds else ""
        yield f"  {planned.at:7.1f} s  {planned.fault.name}{lasts}"


def outcome_lines(outcome: Outcome) -> Iterator[str]:
    """What was accepted and what became of it, what was killed, and how soon its jobs ran again."""
    evidence = outcome.evidence
    yield f"accepted {len(evidence.accepted)}, rows {len(evidence.jobs)}: {counts(row.state for row in evidence.jobs)}"
    yield f"failed by code: {counts(row.error for row in evidence.jobs if row.error)}"
    yield f"deaths counted against jobs: {sum(row.deaths for row in evidence.jobs)}"
    yield f"webhooks {len(evidence.deliveries)}, received {len(evidence.receipts)} times"
    yield f"answers to POST: {counts(post.answer for post in outcome.posts)}"
    killed = [each.fault.name for each in outcome.faults if each.fault.kills]
    yield f"faults {len(outcome.faults)}, {len(killed)} of them kills: {counts(killed)}"
    yield f"processes killed: {counts(each.name for each in outcome.ended if each.code < 0 and not each.stop_seconds)}"
    yield from _stops(outcome)
    yield f"ended by themselves: {counts(each.name for each in ended_unasked(outcome))}"
    yield from _dropped(outcome)
    yield f"attempts by end: {_listed(outcome.logbook.attempts)}"
    yield f"errors logged: {_listed(outcome.logbook.errors)}"


def verdict_lines(outcome: Outcome) -> Iterator[str]:
    """Whether every promise was kept."""
    yield f"all at rest {outcome.quiet_seconds:.1f} s after the last of {len(outcome.evidence.accepted)} acceptances"
    broken = Counter(each.broken for each in outcome.violations)
    yield "violations: " + ", ".join(f"{each.name.lower()} {broken[each]}" for each in Broken)
    yield from (f"  {each}" for each in outcome.violations[:50])


def counts(values: Iterable[str]) -> str:
    """Say how often each value is there."""
    return _listed(Counter(values))


def _listed(counts: Counter[str]) -> str:
    return "; ".join(f"{value} {count}" for value, count in sorted(counts.items())) or "none"


def ended_unasked(outcome: Outcome) -> list[Ended]:
    """The product's processes that ended though nobody had killed or stopped them."""
    return [each for each in outcome.ended if each.code >= 0 and each.stop_seconds is None and each.name != "postgres"]


def _stops(outcome: Outcome) -> Iterator[str]:
    stopped = [each for each in outcome.ended if each.stop_seconds is not None]
    if stopped:
        longest = max(each.stop_seconds or 0 for each in stopped)
        codes = counts(f"{each.name} with {each.code}:" for each in stopped)
        yield f"told to stop (SIGTERM): {len(stopped)}, longest {longest:.1f} s; {codes}"


def fault_lines(outcome: Outcome) -> Iterator[str]:
    """How often each fault was done, and how the service fared meanwhile."""
    yield f"{'fault':32} {'times':>5} {'POSTs':>6} {'p99':>6} {'max':>6}   first verdict after p50 / p99 / max"
    by_name: dict[str, list[Done]] = defaultdict(list)
    for each in outcome.faults:
        by_name[each.fault.name].append(each)
    for name, done in sorted(by_name.items()):
        yield _fault(name, done, outcome.posts)
    quiet = [post for post in outcome.posts if not any(_during(post, each) for each in outcome.faults)]
    yield f"{'(no fault)':32} {'':5} {len(quiet):6} {latency(quiet, 99):6.2f} {latency(quiet, 100):6.2f}"


def _fault(name: str, done: Sequence[Done], posts: Sequence[Post]) -> str:
    during = [post for post in posts if any(_during(post, each) for each in done)]
    verdicts = [each.first_verdict for each in done if each.first_verdict is not None]
    return (
        f"{name:32} {len(done):5} {len(during):6} {latency(during, 99):6.2f} {latency(during, 100):6.2f}"
        f"   {spread(verdicts)}"
    )


def _during(post: Post, done: Done) -> bool:
    """Whether a submission began within a fault, or within a second of one that has no duration."""
    return done.began <= post.at <= max(done.ended, done.began + 1)


def _dropped(outcome: Outcome) -> Iterator[str]:
    stages = counts(each.stage for each in outcome.dropped)
    yield f"jobs of killed workers: {len(outcome.dropped)} ({stages})"
    for what, no_other_ready in (("while another worker was ready", False), ("while none was", True)):
        waited = [
            each.waited for each in outcome.dropped if each.waited is not None and each.no_other_ready is no_other_ready
        ]
        yield f"  {what}: {len(waited)}, run again after {spread(waited)}"


def spread(seconds: Sequence[float]) -> str:
    """Say p50, p99 and maximum."""
    if not seconds:
        return "-"
    ordered = sorted(seconds)
    p50, p99 = (ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] for percent in (50, 99))
    return f"{p50:.2f} / {p99:.2f} / {ordered[-1]:.2f} s"
