"""A silent store is waited for by one caller at a time."""

from __future__ import annotations

import pytest

from shared.errors import ObjectMissingError, StoreUnavailableError
from shared.storage.circuit_breaker import CircuitBreaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(2.5, clock)


def fail(breaker: CircuitBreaker, clock: Clock, seconds: float) -> None:
    with pytest.raises(StoreUnavailableError), breaker.asking():
        _break_off(clock, seconds)


def may_ask(breaker: CircuitBreaker) -> bool:
    """Whether one who asks now is let through, and gets an answer."""
    try:
        with breaker.asking():
            return True
    except StoreUnavailableError:
        return False


def _break_off(clock: Clock, seconds: float) -> None:
    clock.now += seconds
    raise StoreUnavailableError


def test_after_silence_one_asks_and_the_others_are_told_at_once(breaker: CircuitBreaker, clock: Clock):
    fail(breaker, clock, 2.5)
    with breaker.asking():
        asked = []
        for _ in range(3):
            with pytest.raises(StoreUnavailableError), breaker.asking():
                asked.append(True)
        assert not asked
    assert may_ask(breaker)


def test_a_caller_that_never_came_back_is_not_waited_for(breaker: CircuitBreaker, clock: Clock):
    fail(breaker, clock, 2.5)
    lost = breaker.asking()
    lost.__enter__()
    assert not may_ask(breaker)
    clock.now += 2.5
    assert may_ask(breaker)  # somebody has to


def test_a_quick_refusal_is_no_silence(breaker: CircuitBreaker, clock: Clock):
    fail(breaker, clock, 0.1)
    with breaker.asking():
        assert may_ask(breaker)


def test_an_object_that_is_missing_is_an_answer(breaker: CircuitBreaker, clock: Clock):
    fail(breaker, clock, 2.5)
    with pytest.raises(ObjectMissingError), breaker.asking():
        raise ObjectMissingError
    with breaker.asking():
        assert may_ask(breaker)
