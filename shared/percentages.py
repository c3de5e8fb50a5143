"""Shares and probabilities as people read them: rounded, but never to "none", "all" or "certain" where that is untrue.

0.9953 is ">99%", not "100%", and 0.0004 is "<1%", not "0%".
"""

from __future__ import annotations

#: The nearest to 1 that 64 bits hold. A model is never certain, but from a logit of 37 on its probability is rounded.
_NEARLY_CERTAIN = 1 - 2**-53


def percent(share: float, digits: int = 0) -> str:
    """Return a counted share in per cent with so many decimals: "0%" and "100%" are none and all, exactly."""
    return _rounded(share, f".{digits}%", 10.0 ** -(digits + 2))


def decimal(share: float, digits: int = 3) -> str:
    """Return a share with so many decimals: "0.000" and "1.000" are none and all, exactly."""
    return _rounded(share, f".{digits}f", 10.0**-digits)


def probability_percent(probability: float, digits: int = 0) -> str:
    """Return a model's probability in per cent with so many decimals: never "0%" or "100%"."""
    return percent(min(max(probability, 1 - _NEARLY_CERTAIN), _NEARLY_CERTAIN), digits)


def confidence_level(share: float) -> str:
    """Return the confidence of an interval in per cent, as it was chosen: "95%", "99.9%"."""
    return f"{100 * share:.10g}%"


def _rounded(share: float, form: str, step: float) -> str:
    """Return `share` in a format whose last digit counts `step`; as less or more than that where it is not exact."""
    text = format(share, form)
    if 0 < share < 1 and text == format(0, form):
        return f"<{format(step, form)}"
    if 0 < share < 1 and text == format(1, form):
        return f">{format(1 - step, form)}"
    return text
