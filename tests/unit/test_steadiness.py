"""The rule of the soak tells growth from what comes and goes."""

from __future__ import annotations

import random

import pytest

from tests.chaos.steadiness import trend

MINUTES = 30


def series(*values: float) -> list[tuple[float, float]]:
    return [(10.0 * number, value) for number, value in enumerate(values)]


def noisy(start: float, an_hour: float, noise: float = 3.0) -> list[tuple[float, float]]:
    chance = random.Random(5)
    return [(at, start + an_hour * at / 3600 + chance.uniform(-noise, noise)) for at in range(0, 60 * MINUTES, 10)]


def test_noise_is_flat():
    found = trend(noisy(400, an_hour=0), slack=10)
    assert found is not None
    assert found.flat
    assert abs(found.slope) < 5


def test_a_leak_is_not_flat_and_its_slope_is_told():
    found = trend(noisy(400, an_hour=400), slack=10)
    assert found is not None
    assert not found.flat
    assert found.slope == pytest.approx(400, rel=0.05)


def test_growth_while_warming_up_counts_for_nothing():
    found = trend(series(*range(30), *[30.0] * 90), slack=0)
    assert found is not None
    assert found.flat


def test_what_shrinks_is_flat():
    found = trend(noisy(400, an_hour=-300), slack=0)
    assert found is not None
    assert found.flat


def test_a_few_samples_say_nothing():
    assert trend(series(*range(11)), slack=0) is None
