"""How many jobs may be open, that is wait or run: read from the tally before one more is accepted.

The tally is exact: what a transaction does to the queue is counted from its commit on. That of all tenants is reused
for twenty times as long as it took, at most for a second.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from shared.database.engine import Database
from shared.database.statements import statement
from shared.errors import DistildireError
from shared.jobs import tally

#: So near to its limit, a tenant's acceptances take turns: more than it can have on their way at one moment.
_CLOSE = 1_000
#: The first half of the key of those turns; any constant of the project's own.
_TURNS = 0x6469
#: Seconds that a refused client is told to wait, at least and at most.
_SOONEST, _LATEST = 1, 60
#: A client is told to come back when so large a part of the limit should be free, not the very next place.
_PART = 10
#: The pace of jobs is that of so long; of a tenant, of so many of its jobs at most.
_PACE, _SAMPLE = timedelta(minutes=1), 200

# It names the table of jobs, of which the tally reads no row: where that is locked, nobody is to store an image first.
_LIMIT = text("""
SELECT coalesce(max_open_jobs, :most) FROM tenants WHERE id = :tenant AND NOT EXISTS (SELECT FROM jobs WHERE false)
""")
_ENDED_OF_TENANT = statement("shared.jobs", "ended_lately")


@dataclass(frozen=True)
class OpenLimits:
    """The most jobs that may be open: of all tenants, and of each that has no limit of its own."""

    overall: int
    per_tenant: int


class FullError(DistildireError):
    """As many jobs are open as may be. Submit again later."""

    def __init__(self, most: int, retry_after: int) -> None:
        super().__init__()
        self.most = most
        self.retry_after = retry_after
        """Seconds after which a part of them should have ended, at the pace of the last minute."""


class TenantFullError(FullError):
    """As many jobs of the tenant are open as may be. Submit again when some have ended."""


class ServiceFullError(FullError):
    """The service has as many open jobs as it may. Submit again when some have ended."""


class Admission:
    """Says whether one more job may be accepted; one for each process."""

    def __init__(self, database: Database, limits: OpenLimits) -> None:
        self._database = database
        self._limits = limits
        self._counting = threading.Lock()
        self._open = 0
        self._known_until = 0.0

    def check_tenant(self, session: Session, tenant_id: UUID) -> int:
        """Return how many jobs more the tenant may have now; raise `TenantFullError` where it is none."""
        most = session.scalar(_LIMIT, {"tenant": tenant_id, "most": self._limits.per_tenant})
        most = int(most or 0)  # none: the tenant was deleted a moment ago
        places = most - tally.open_jobs(session, tenant_id)
        if places <= 0:
            raise TenantFullError(most, retry_after(most, _pace(session, tenant_id)))
        return places

    def check_service(self) -> None:
        """Raise `ServiceFullError` where all tenants together have too many open jobs.

        The limit can be passed by what is accepted while one count is reused, and by what is on its way.
        """
        most = self._limits.overall
        if self._all_open() >= most:
            with self._database.begin() as session:
                ended = sum(tally.ended(session, _PACE).values())
            raise ServiceFullError(most, retry_after(most, ended / _PACE.seconds))

    def hold_tenant(self, session: Session, tenant_id: UUID) -> None:
        """Raise `TenantFullError` where there is no room; else there is, until this transaction has ended.

        To be called in the transaction that writes the job: the limit is exact.
        """
        if self.check_tenant(session, tenant_id) <= _CLOSE:
            session.execute(select(func.pg_advisory_xact_lock(_TURNS, func.hashtext(str(tenant_id)))))
            self.check_tenant(session, tenant_id)  # anew: others have committed while this one waited for its turn

    def _all_open(self) -> int:
        """Return the number of open jobs: counted now, or what it was a moment ago."""
        if time.monotonic() > self._known_until and self._counting.acquire(blocking=False):
            try:
                began = time.monotonic()
                with self._database.begin() as session:
                    self._open = tally.totals(session).open_jobs
                ended = time.monotonic()
                self._known_until = ended + min(20 * (ended - began), 1.0)
            finally:
                self._counting.release()
        return self._open


def _pace(session: Session, tenant_id: UUID) -> float:
    """Return how many jobs of a tenant ended in a second, lately."""
    values = {"tenant": tenant_id, "seconds": _PACE.seconds, "sample": _SAMPLE}
    ended, seconds = session.execute(_ENDED_OF_TENANT, values).one()
    return int(ended) / (max(float(seconds), 1.0) if ended == _SAMPLE else _PACE.seconds)


def retry_after(most: int, per_second: float) -> int:
    """Return whole seconds until a tenth of `most` jobs has ended, where `per_second` end; bounded."""
    if per_second <= 0:
        return _LATEST
    return min(max(math.ceil(max(most / _PART, 1) / per_second), _SOONEST), _LATEST)
