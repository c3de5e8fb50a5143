"""What follows from one try to deliver a webhook: a pure decision."""

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
#: What waits for longer is given up, however few tries it had: a receiver that hangs takes one try at a time, and what
#: waits for it would grow for ever. Longer than the ten tries take.
MOST_AGE = timedelta(days=4)
#: An endpoint of which every try has failed for so long is disabled.
_DISABLED_AFTER = timedelta(days=5)
#: Jitter only adds, so that a receiver which counts on the published waits is never tried earlier.
_JITTER = 0.1
_GONE = 410


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver accepted the webhook."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The webhook is to be tried again, not before `at`."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Failed:
    """The last try failed; the webhook is given up."""


@dataclass(frozen=True, slots=True)
class Disable:
    """The webhook is given up and its endpoint disabled."""

    reason: str
    """As the endpoint's tenant is told it."""


Decision = Delivered | Retry | Failed | Disable


def decide(
    attempt: int, status: int | None, now: datetime, chance: float, failing_since: datetime | None = None
) -> Decision:
    """Decide what follows try number `attempt` (1 is the first), which ended at `now`.

    `status` is the HTTP status of the answer, None if there was none. `chance`, in [0, 1), draws the jitter, of up to
    a tenth of the wait. Every try of the endpoint has failed since `failing_since`. Only 2xx is success; a redirect is
    a failure like any other.
    """
    if attempt < 1:
        raise ValueError(f"attempt counts from 1, not {attempt}")
    if status is not None and 200 <= status < 300:
        return Delivered()
    if status == _GONE:
        return Disable("The receiver answered 410 Gone.")
    if failing_since is not None and now - failing_since >= _DISABLED_AFTER:
        return Disable(f"Every try has failed for {_DISABLED_AFTER.days} days.")
    if attempt >= len(DELAYS):  # past the last where a sender died in it, and it was made once more
        return Failed()
    return Retry(at=now + DELAYS[attempt] * (1 + _JITTER * chance))
