"""What the product held in the course of a run, and whether it grew: the verdict of a soak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.chaos.deployment import SERVERS_WITH_DISKS
from tests.chaos.sampler import Series
from tests.chaos.steadiness import trend

#: What may come and go with the work at hand, by what is measured. What is not here grows with what is stored.
_SLACK = {
    "memory, MiB": 16,
    "descriptors": 16,
    "threads": 8,
    "connections": 16,
    "leases": 8,
    "worker rows": 0,
    "clients": 8,
    "data, MiB": 4,
}


def growth(series: Mapping[Series, Sequence[tuple[float, float]]]) -> tuple[list[str], bool]:
    """Return how each series went, and whether all are flat.

    Of processes, those that lived for half of the time or longer. The servers are not ours: what they hold is told, and
    not judged.
    """
    longest = max((len(samples) for samples in series.values()), default=0)
    lines, flat = [f"{'what is held':40} {'start':>8} {'end':>8} {'an hour':>8}"] if longest else [], True
    for name, samples in sorted(series.items()):
        found = trend(samples, _SLACK.get(name.what, 0))
        if found is None or len(samples) < longest / 2:
            continue
        judged = name.what in _SLACK and name.of not in SERVERS_WITH_DISKS
        flat &= found.flat or not judged
        verdict = ("flat" if found.flat else "GROWS") if judged else ""
        lines.append(
            f"{f'{name.of} {name.what}':40} {found.first:8.1f} {found.last:8.1f} {found.slope:+8.1f} {verdict}"
        )
    return lines, flat
