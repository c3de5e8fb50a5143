"""A run's figures, as lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import median

from shared.errors import ErrorCode
from tests.hostile.refusals import MOST_SECONDS, Refusal
from tests.hostile.run import Ending, Outcome

_SLOWEST = 5
_ENDED_BY_FORCE = {ErrorCode.DECODE_CRASHED, ErrorCode.OUT_OF_MEMORY}


def outcome_lines(outcome: Outcome) -> Iterator[str]:
    """What came of a run."""
    yield from ending_lines(outcome.endings)
    yield memory_line(outcome)


def memory_line(outcome: Outcome) -> str:
    """What the worker held."""
    return (
        f"memory of the worker and its children: {_mb(outcome.worker_bytes_at_rest)} before, "
        f"{_mb(outcome.worker_bytes)} at the most (PSS, looked at 20 times a second), in {outcome.seconds:.0f} s"
    )


def ending_lines(endings: Sequence[Ending]) -> Iterator[str]:
    """What came of the files: by where they are from, then the worst."""
    ordered = sorted(endings, key=lambda ending: ending.file.source)
    for source, group in groupby(ordered, key=lambda ending: ending.file.source):
        yield _row(source, list(group))
    yield _row("all", endings)
    yield "slowest:"
    slowest = sorted(endings, key=lambda ending: ending.seconds, reverse=True)[:_SLOWEST]
    yield from (_line(ending) for ending in slowest)
    by_force = [ending for ending in endings if ending.code in _ENDED_BY_FORCE]
    yield f"decoders ended by force: {len(by_force)}"
    yield from (f"{_line(ending)}: {ending.message}" for ending in by_force)


def refusal_lines(refusals: Sequence[Refusal]) -> Iterator[str]:
    """How soon each bomb was refused."""
    yield f"bombs, from the order to decode to the refusal (may take {1000 * MOST_SECONDS:.0f} ms):"
    for refusal in refusals:
        yield (
            f"  {1000 * refusal.median_seconds:6.1f} ms (median), {1000 * refusal.longest_seconds:6.1f} ms (longest)  "
            f"{refusal.code}: {refusal.bomb.name}"
        )


def _row(source: str, endings: Sequence[Ending]) -> str:
    refused = Counter(ending.code for ending in endings if ending.refused)
    jobs = Counter(ending.code for ending in endings if not ending.refused)
    seconds = [ending.seconds for ending in endings]
    return (
        f"{source}: {len(endings)} files, median {median(seconds):.2f} s, longest {max(seconds):.2f} s\n"
        f"  refused {refused.total()}: {_counts(refused)}\n"
        f"  jobs {jobs.total()}: {_counts(jobs)}"
    )


def _counts(codes: Counter[str]) -> str:
    return ", ".join(f"{code} {count}" for code, count in codes.most_common()) or "-"


def _line(ending: Ending) -> str:
    return f"  {ending.seconds:5.2f} s  {ending.code}  {ending.file.source}, {ending.file.name}"


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
