"""Decides what follows a try to deliver a webhook, as a pure function."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

#: The wait before each try, counted from the end of the try before it: ten tries in 75 hours and 35 minutes.
DELAYS = (
    timedelta(0),
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
#: A delivery that has waited for longer is given up, however few tries it had. A receiver that hangs gets one try at a
#: time, so its queue would grow for ever. This is longer than the ten tries take.
MOST_AGE = timedelta(days=4)
#: A receiver can postpone the next try by this much at most.
_MOST_POSTPONED = DELAYS[-1]
#: Jitter only lengthens a wait, so that no try comes earlier than the published schedule says.
_JITTER = 0.1
_GONE = 410


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver accepted the webhook."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The webhook must be tried again, not before `at`."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Failed:
    """The last try failed, so the webhook is given up."""


@dataclass(frozen=True, slots=True)
class Disable:
    """The webhook is given up and its endpoint is disabled."""

    reason: str
    """The reason that the endpoint's tenant is shown."""


Decision = Delivered | Retry | Failed | Disable


def decide(
    attempt: int,
    status: int | None,
    now: datetime,
    chance: float,
    *,
    disable_after: timedelta,
    failing_since: datetime | None = None,
    retry_after: str | None = None,
) -> Decision:
    """Decide what follows try number `attempt` (1 is the first), which ended at `now`.

    `status` is the HTTP status of the response, None if there was none. `chance`, a random number in [0, 1), sets the
    jitter, at most a tenth of the wait. Every try to the endpoint has failed since `failing_since`; after
    `disable_after` of that it is disabled. Only 2xx is a success; a redirect is a failure like any other. The next try
    is no earlier than the response's header `Retry-After` says, up to a day.
    """
    if attempt < 1:
        raise ValueError(f"attempt counts from 1, not {attempt}")
    if status is not None and 200 <= status < 300:
        return Delivered()
    if status == _GONE:
        return Disable("The receiver answered 410 Gone.")
    if failing_since is not None and now - failing_since >= disable_after:
        return Disable(f"Every try has failed for {_in_words(disable_after)}.")
    if attempt >= len(DELAYS):  # beyond the last if a sender died during it, so that it was repeated
        return Failed()
    scheduled = DELAYS[attempt] * (1 + _JITTER * chance)
    return Retry(at=now + max(scheduled, min(_asked_for(retry_after, now), _MOST_POSTPONED)))


def _asked_for(retry_after: str | None, now: datetime) -> timedelta:
    """Return the wait that a `Retry-After` asks for, in seconds or as a date (RFC 9110, 10.2.3); 0 if malformed."""
    if retry_after is None:
        return timedelta(0)
    if re.fullmatch("[0-9]{1,9}", retry_after):
        return timedelta(seconds=int(retry_after))
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return timedelta(0)
    return moment - now if moment.tzinfo is not None else timedelta(0)


def _in_words(wait: timedelta) -> str:
    if wait >= timedelta(days=2):
        return f"{wait.days} days"
    return f"{wait.total_seconds() / 3600:g} hours"
