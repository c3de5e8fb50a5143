"""Figures are rounded for people, but never to a certainty."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.metrics.rounding import headline, rounded, spread


@pytest.mark.parametrize(
    ("share", "number", "percent"),
    [
        (0, "0.000", "0%"),
        (1e-7, "<0.001", "<0.1%"),
        (0.00049, "<0.001", "<0.1%"),
        (0.00051, "0.001", "0.1%"),
        (0.017, "0.017", "1.7%"),
        (0.5, "0.500", "50.0%"),
        (0.9994, "0.999", "99.9%"),
        (0.9996, ">0.999", ">99.9%"),
        (1 - 1e-7, ">0.999", ">99.9%"),
        (1, "1.000", "100%"),
        (0.9999999999999999, "1.000", "100%"),  # a sum of shares that is all
    ],
)
def test_only_all_is_one_and_only_none_is_nothing(share: float, number: str, percent: str) -> None:
    assert (rounded(share), rounded(share, percent=True)) == (number, percent)


@given(st.floats(1e-6, 1 - 1e-6))
def test_nothing_between_is_written_as_a_certainty(share: float) -> None:
    assert rounded(share) not in {"0.000", "1.000"}
    assert rounded(share, percent=True) not in {"0%", "100%", "0.0%", "100.0%"}


@pytest.mark.parametrize(
    ("estimate", "told", "interval"),
    [
        ((0.5, 0.4, 0.6), "50.0%", "40.0% – 60.0%"),
        ((1.0, 0.832, 1.0), "≥ 83.2%", "83.2% – 100%"),
        ((0.0, 0.0, 0.168), "≤ 16.8%", "0% – 16.8%"),
        ((0.9999, 0.9997, 0.99999), ">99.9%", ">99.9% – >99.9%"),
        ((1.0, 0.9999, 1.0), ">99.9%", ">99.9% – 100%"),
        ((0.0, 0.0, 0.0001), "<0.1%", "0% – <0.1%"),
        ((None, 0.02, 1.0), "not estimable", "2.0% – 100%"),
        ((None, None, None), "not estimable", ""),
        ((0.5, None, None), "50.0%", "no interval: too few images"),
        ((1.0, 1.0, 1.0), "100%", "100% – 100%"),  # nothing was estimated
    ],
)
def test_where_all_or_none_was_counted_the_bound_is_told(
    estimate: tuple[float | None, float | None, float | None], told: str, interval: str
) -> None:
    assert headline(*estimate, percent=True) == told
    assert spread(*estimate, percent=True) == interval
