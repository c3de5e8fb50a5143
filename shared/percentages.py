"""Shares and probabilities for people: rounded, but never to "none", "all" or "certain" if that is untrue.

0.9953 is ">99%", not "100%", and 0.0004 is "<1%", not "0%".
"""

from __future__ import annotations

#: The largest float64 below 1. A model is never certain, but above a logit of 37 its probability is rounded to 1.
_NEARLY_CERTAIN = 1 - 2**-53


def percent(share: float, digits: int = 0) -> str:
    """Return a counted share in per cent with `digits` decimals: "0%" means exactly none and "100%" exactly all."""
    return _rounded(share, f".{digits}%", 10.0 ** -(digits + 2))


def decimal(share: float, digits: int = 3) -> str:
    """Return a share with `digits` decimals: "0.000" means exactly none and "1.000" exactly all."""
    return _rounded(share, f".{digits}f", 10.0**-digits)


def probability_percent(probability: float, digits: int = 0) -> str:
    """Return a model's probability in per cent with `digits` decimals, never as "0%" or "100%"."""
    return percent(min(max(probability, 1 - _NEARLY_CERTAIN), _NEARLY_CERTAIN), digits)


def confidence_level(share: float) -> str:
    """Return the confidence of an interval in per cent, without rounding: "95%", "99.9%"."""
    return f"{100 * share:.10g}%"


def _rounded(share: float, form: str, step: float) -> str:
    """Format `share`. If it would be rounded to 0 or 1, return "<" or ">" and the nearest value, one `step` away."""
    text = format(share, form)
    if 0 < share < 1 and text == format(0, form):
        return f"<{format(step, form)}"
    if 0 < share < 1 and text == format(1, form):
        return f">{format(1 - step, form)}"
    return text
