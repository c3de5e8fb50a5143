"""How many jobs may be open, that is wait or run: counted where they are, before one more is accepted.

There is no counter that could drift from the truth. A count reads an index of what is open, and no further than to the
limit; that of all tenants is reused for twenty times as long as it took, at most for a second.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import TextClause, func, select, text
from sqlalchemy.orm import Session

from shared.database import Database
from shared.errors import DistildireError

#: So near to its limit, a tenant's acceptances take turns: more than it can have on their way at one moment.
_CLOSE = 1_000
#: The first half of the key of those turns; any constant of the project's own.
_TURNS = 0x6469
#: Seconds that a refused client is told to wait, at least and at most.
_SOONEST, _LATEST = 1, 60
#: A client is told to come back when so large a part of the limit should be free, not the very next place.
_PART = 10
_RATE_SECONDS = 60

# `job_states` is the view of all tenants' jobs, for those who may see the rows of one tenant alone.
_OPEN = text("""
SELECT count(*) FROM (
    SELECT 1 FROM job_states WHERE state IN ('queued', 'running') ORDER BY deadline_at LIMIT :most
) AS open
""")
_OPEN_OF_TENANT = text("""
WITH own AS (SELECT coalesce(max_open_jobs, :most) AS most FROM tenants WHERE id = :tenant)
SELECT (SELECT most FROM own) AS most, count(*) AS open FROM (
    (SELECT 1 FROM jobs WHERE tenant_id = :tenant AND state = 'running' LIMIT (SELECT most FROM own))
    UNION ALL
    (SELECT 1 FROM jobs WHERE tenant_id = :tenant AND state = 'queued'
     ORDER BY priority DESC, created_at, id LIMIT (SELECT most FROM own))
) AS open
""")
_ENDED = text("SELECT count(*) FROM job_states WHERE finished_at > now() - make_interval(secs => :seconds)")
_ENDED_OF_TENANT = text("""
SELECT count(*) FROM jobs WHERE tenant_id = :tenant AND finished_at > now() - make_interval(secs => :seconds)
""")


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
        values = {"tenant": tenant_id, "most": self._limits.per_tenant}
        found = session.execute(_OPEN_OF_TENANT, values).one()
        if found.open >= found.most:
            raise TenantFullError(found.most, _wait(session, _ENDED_OF_TENANT, found.most, tenant_id))
        return int(found.most - found.open)

    def check_service(self) -> None:
        """Raise `ServiceFullError` where all tenants together have too many open jobs.

        The limit can be passed by what is accepted while one count is reused, and by what is on its way.
        """
        most = self._limits.overall
        if self._all_open() >= most:
            with self._database.begin() as session:
                raise ServiceFullError(most, _wait(session, _ENDED, most))

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
                    self._open = session.scalar(_OPEN, {"most": self._limits.overall}) or 0
                ended = time.monotonic()
                self._known_until = ended + min(20 * (ended - began), 1.0)
            finally:
                self._counting.release()
        return self._open


def _wait(session: Session, ended: TextClause, most: int, tenant_id: UUID | None = None) -> int:
    """Return the seconds in which a part of `most` jobs ends at the pace of the last minute."""
    values = {"seconds": _RATE_SECONDS} | ({"tenant": tenant_id} if tenant_id else {})
    recently = session.scalar(ended, values) or 0
    return retry_after(most, recently / _RATE_SECONDS)


def retry_after(most: int, per_second: float) -> int:
    """Return whole seconds until a tenth of `most` jobs has ended, where `per_second` end; bounded."""
    if per_second <= 0:
        return _LATEST
    return min(max(math.ceil(max(most / _PART, 1) / per_second), _SOONEST), _LATEST)
