"""Rounded shares: never certain, never none, unless they are."""

from __future__ import annotations

import pytest

from shared.percentages import decimal, percent, probability_percent


@pytest.mark.parametrize(
    ("share", "whole", "two_decimals", "decimals"),
    [
        (0.0, "0%", "0.00%", "0.000"),
        (1e-12, "<1%", "<0.01%", "<0.001"),
        (0.00004, "<1%", "<0.01%", "<0.001"),
        (0.004, "<1%", "0.40%", "0.004"),
        (0.006, "1%", "0.60%", "0.006"),
        (0.5, "50%", "50.00%", "0.500"),
        (0.9949, "99%", "99.49%", "0.995"),
        (0.9951, ">99%", "99.51%", "0.995"),
        (0.9953, ">99%", "99.53%", "0.995"),
        (0.9996, ">99%", "99.96%", ">0.999"),
        (0.99999, ">99%", ">99.99%", ">0.999"),
        (1 - 2**-53, ">99%", ">99.99%", ">0.999"),
        (1.0, "100%", "100.00%", "1.000"),
        (1, "100%", "100.00%", "1.000"),
    ],
)
def test_only_what_is_none_or_all_is_called_so(share: float, whole: str, two_decimals: str, decimals: str):
    assert (percent(share), percent(share, 2), decimal(share)) == (whole, two_decimals, decimals)


def test_halves_round_to_no_certainty_either():
    assert percent(0.995) in {"99%", ">99%"}
    assert percent(0.005) in {"<1%", "1%"}
    assert decimal(0.9995) in {"0.999", ">0.999"}


@pytest.mark.parametrize("share", [1.004, 1.5, 12.0])
def test_a_ratio_above_one_is_not_held_below_it(share: float):
    assert (percent(share), decimal(share, 1)) == (f"{share:.0%}", f"{share:.1f}")


@pytest.mark.parametrize(
    ("probability", "whole", "one_decimal"),
    [
        (0.0, "<1%", "<0.1%"),  # the sigmoid of a logit of -800
        (0.004, "<1%", "0.4%"),
        (0.9949, "99%", "99.5%"),
        (0.9953, ">99%", "99.5%"),
        (1.0, ">99%", ">99.9%"),  # of a logit of 40
    ],
)
def test_a_probability_is_never_certain(probability: float, whole: str, one_decimal: str):
    assert (probability_percent(probability), probability_percent(probability, 1)) == (whole, one_decimal)
