"""How figures are written for people: rounded, but never to a certainty that a sample cannot give. Free of numpy."""

from __future__ import annotations

from shared import percentages

NOT_ESTIMABLE = "not estimable"

_EXACT = 1e-9
"""Nearer to 0 or 1 than this a share is all or none: sums of shares differ by their last digits."""


def rounded(share: float, *, percent: bool = False) -> str:
    """Write a number between 0 and 1: all and none in full, nothing else like them."""
    if abs(share - round(share)) < _EXACT:
        return f"{round(share):.0%}" if percent else f"{round(share):.3f}"
    return percentages.percent(share, 1) if percent else percentages.decimal(share)


def is_bound(value: float | None, low: float | None, high: float | None) -> bool:
    """Tell whether all or none was counted, and an interval says what that is worth."""
    if value is None or low is None or high is None or low == high:
        return False
    return abs(value - round(value)) < _EXACT


def headline(value: float | None, low: float | None, high: float | None, *, percent: bool = False) -> str:
    """Write a figure. Where all or none was counted, its bound: of a few images that says what the figure does not."""
    if value is None:
        return NOT_ESTIMABLE
    if not is_bound(value, low, high):
        return rounded(value, percent=percent)
    bound = rounded((low if value > 1 / 2 else high) or 0, percent=percent)
    if bound[0] in "<>":
        return bound
    return f"{'≥' if value > 1 / 2 else '≤'} {bound}"


def spread(value: float | None, low: float | None, high: float | None, *, percent: bool = False) -> str:
    """Write a figure's interval."""
    if low is None or high is None:
        return "" if value is None else "no interval: too few images"
    return f"{rounded(low, percent=percent)} – {rounded(high, percent=percent)}"
