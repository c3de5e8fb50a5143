"""How numbers are written for people: rounded, but not to 0 % or 100 % unless they are exact. Nothing imports numpy."""

from __future__ import annotations

from shared import percentages

NOT_ESTIMABLE = "not estimable"

_EXACT = 1e-9
"""A share this close to 0 or 1 counts as exactly 0 or 1: sums of shares differ in their last digits."""


def rounded(share: float, *, percent: bool = False) -> str:
    """Write a number between 0 and 1. Only exactly 0 and 1 are written as such."""
    if abs(share - round(share)) < _EXACT:
        return f"{round(share):.0%}" if percent else f"{round(share):.3f}"
    return percentages.percent(share, 1) if percent else percentages.decimal(share)


def is_bound(value: float | None, low: float | None, high: float | None) -> bool:
    """Tell whether the value is 0 or 1 and has an interval, one of whose ends then says more than the value."""
    if value is None or low is None or high is None or low == high:
        return False
    return abs(value - round(value)) < _EXACT


def headline(value: float | None, low: float | None, high: float | None, *, percent: bool = False) -> str:
    """Write a value; if it is 0 or 1, its bound instead: 0 or 1 in a few images says little of all others."""
    if value is None:
        return NOT_ESTIMABLE
    if not is_bound(value, low, high):
        return rounded(value, percent=percent)
    bound = rounded((low if value > 1 / 2 else high) or 0, percent=percent)
    if bound[0] in "<>":
        return bound
    return f"{'≥' if value > 1 / 2 else '≤'} {bound}"


def spread(value: float | None, low: float | None, high: float | None, *, percent: bool = False) -> str:
    """Write a value's interval."""
    if low is None or high is None:
        return "" if value is None else "no interval: too few images"
    return f"{rounded(low, percent=percent)} – {rounded(high, percent=percent)}"
