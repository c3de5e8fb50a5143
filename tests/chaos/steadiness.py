"""Whether a series of measurements grows: the rule by which a soak is judged. Pure.

The first quarter is warm-up. Of the rest, the median of the last third may exceed that of the first third by a tenth
and a slack, which is what comes and goes with the work at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression, median

_WARM_UP, _GROWTH = 0.25, 0.10
#: Fewer samples than these say nothing.
_LEAST = 12


@dataclass(frozen=True)
class Trend:
    """How a series went, after its warm-up."""

    first: float
    last: float
    """Medians of the first and of the last third."""
    slope: float
    """By least squares, an hour."""
    slack: float

    @property
    def flat(self) -> bool:
        """Whether it did not grow."""
        return self.last <= self.first * (1 + _GROWTH) + self.slack


def trend(series: Sequence[tuple[float, float]], slack: float) -> Trend | None:
    """Return the trend of pairs of seconds and value, in the order of time; None where they are too few."""
    if len(series) < _LEAST:
        return None
    settled = series[int(len(series) * _WARM_UP) :]
    seconds, values = zip(*settled, strict=True)
    third = len(values) // 3
    return Trend(
        median(values[:third]), median(values[-third:]), 3600 * linear_regression(seconds, values).slope, slack
    )
