"""The decision after each try, as a table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial

import pytest

from shared.webhooks.retry_schedule import DELAYS, MOST_AGE, Decision, Delivered, Disable, Failed, Retry, decide

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
_decide = partial(decide, disable_after=timedelta(days=5))
GONE = Disable("The receiver answered 410 Gone.")


def after(**wait: float) -> Retry:
    return Retry(at=NOW + timedelta(**wait))


@pytest.mark.parametrize(
    ("attempt", "status", "expected"),
    [
        (1, 200, Delivered()),
        (1, 204, Delivered()),
        (1, 299, Delivered()),
        (10, 202, Delivered()),
        (1, 410, GONE),
        (10, 410, GONE),
        (1, None, after(seconds=5)),
        (1, 199, after(seconds=5)),
        (1, 300, after(seconds=5)),
        (1, 301, after(seconds=5)),
        (1, 400, after(seconds=5)),
        (1, 404, after(seconds=5)),
        (1, 500, after(seconds=5)),
        (2, 500, after(minutes=5)),
        (3, 500, after(minutes=30)),
        (4, 500, after(hours=2)),
        (5, 500, after(hours=5)),
        (6, 500, after(hours=10)),
        (7, 500, after(hours=14)),
        (8, 500, after(hours=20)),
        (9, 500, after(hours=24)),
        (10, 500, Failed()),
        (10, None, Failed()),
        (11, 500, Failed()),
        (11, 200, Delivered()),
    ],
)
def test_what_follows_a_try(attempt: int, status: int | None, expected: Decision) -> None:
    assert _decide(attempt, status, NOW, 0.0) == expected


@pytest.mark.parametrize(
    ("failing_for", "status", "expected"),
    [
        (timedelta(days=5) - timedelta(seconds=1), 500, after(seconds=5)),
        (timedelta(days=5), 500, Disable("Every try has failed for 5 days.")),
        (timedelta(days=30), None, Disable("Every try has failed for 5 days.")),
        (timedelta(days=30), 200, Delivered()),
        (timedelta(days=30), 410, GONE),
    ],
)
def test_an_endpoint_that_has_failed_for_days_is_disabled_by_one_more_failure(
    failing_for: timedelta, status: int | None, expected: Decision
) -> None:
    assert _decide(1, status, NOW, 0.0, failing_since=NOW - failing_for) == expected


def test_a_webhook_is_not_too_old_before_its_tries_are_over() -> None:
    assert sum(DELAYS, timedelta()) * 1.1 + len(DELAYS) * timedelta(seconds=15) < MOST_AGE


def test_jitter_spreads_tries_and_never_hastens_them() -> None:
    waits = []
    for chance in (0.0, 0.25, 0.5, 0.999):
        decision = _decide(3, 503, NOW, chance)
        assert isinstance(decision, Retry)
        waits.append(decision.at - NOW)
    assert waits == sorted(waits)
    assert len(set(waits)) == len(waits)
    assert timedelta(minutes=30) <= waits[0]
    assert waits[-1] <= timedelta(minutes=33)


@pytest.mark.parametrize("attempt", [-1, 0])
def test_an_attempt_before_the_first_is_a_fault(attempt: int) -> None:
    with pytest.raises(ValueError, match="attempt"):
        _decide(attempt, 500, NOW, 0.0)


def test_the_schedule_has_ten_tries() -> None:
    assert len(DELAYS) == 10
    assert DELAYS[0] == timedelta(0)


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [
        (None, 5),
        ("", 5),
        ("soon", 5),
        ("0", 5),
        ("4", 5),
        ("3600", 3600),
        ("999999999", 86_400),
        ("9" * 40, 5),
        ("-60", 5),
        ("1.5", 5),
        (format_datetime(NOW + timedelta(minutes=7), usegmt=True), 420),
        (format_datetime(NOW - timedelta(minutes=7), usegmt=True), 5),
        (format_datetime(NOW + timedelta(days=70), usegmt=True), 86_400),
        ("Thu, 32 Jan 2026 10:00:00 GMT", 5),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 86_400),
    ],
)
def test_the_receiver_can_postpone_the_next_try_by_a_day_at_most(retry_after: str | None, wait: int):
    decision = _decide(1, 503, NOW, 0.0, retry_after=retry_after)
    assert decision == Retry(NOW.replace(microsecond=0) + timedelta(seconds=wait))


def test_a_receiver_that_is_gone_cannot_postpone_anything():
    assert isinstance(_decide(1, 410, NOW, 0.0, retry_after="60"), Disable)


@pytest.mark.parametrize(("after", "words"), [(timedelta(days=5), "5 days"), (timedelta(hours=36), "36 hours")])
def test_an_endpoint_is_disabled_after_the_time_that_is_set(after: timedelta, words: str):
    since = NOW - after
    assert decide(1, 500, NOW, 0.0, disable_after=after, failing_since=since) == Disable(
        f"Every try has failed for {words}."
    )
    assert isinstance(decide(1, 500, NOW, 0.0, disable_after=after + timedelta(1), failing_since=since), Retry)
