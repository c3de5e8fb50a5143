"""Decides what follows a try to deliver a webhook, as a pure function."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

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
#: An endpoint is disabled when every try to it has failed for this long.
_DISABLED_AFTER = timedelta(days=5)
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
    attempt: int, status: int | None, now: datetime, chance: float, failing_since: datetime | None = None
) -> Decision:
    """Decide what follows try number `attempt` (1 is the first), which ended at `now`.

    `status` is the HTTP status of the response, None if there was none. `chance`, a random number in [0, 1), sets the
    jitter, at most a tenth of the wait. Every try to the endpoint has failed since `failing_since`. Only 2xx is a
    success; a redirect is a failure like any other.
    """
    if attempt < 1:
        raise ValueError(f"attempt counts from 1, not {attempt}")
    if status is not None and 200 <= status < 300:
        return Delivered()
    if status == _GONE:
        return Disable("The receiver answered 410 Gone.")
    if failing_since is not None and now - failing_since >= _DISABLED_AFTER:
        return Disable(f"Every try has failed for {_DISABLED_AFTER.days} days.")
    if attempt >= len(DELAYS):  # beyond the last if a sender died during it, so that it was repeated
        return Failed()
    return Retry(at=now + DELAYS[attempt] * (1 + _JITTER * chance))
