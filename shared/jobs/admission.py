"""The limits on open jobs, those that wait or run. They are checked against the tally before a job is accepted.

The tally is exact: it counts what a transaction did to the queue as soon as the transaction commits. The count over all
tenants is reused for twenty times as long as it took to read, and for one second at most.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from shared.database.engine import Database
from shared.database.statements import statement
from shared.errors import DistildireError
from shared.jobs import tally
from shared.tenants import usage

#: When a tenant is this close to its limit, its submissions are committed one at a time. The number is larger than the
#: number of submissions that a tenant can have in progress at one moment.
_CLOSE = 1_000
#: The first half of the key of the advisory lock for that; the project chose the constant.
_TURNS = 0x6469
#: The fewest and the most seconds that a refused client is asked to wait.
_SOONEST, _LATEST = 1, 60
#: A client is asked to come back when a tenth of the limit should be free, not as soon as one job has ended.
_PART = 10
#: The rate at which jobs end is measured over this time; a tenant's rate over this many of its jobs at most.
_RATE_WINDOW, _SAMPLE = timedelta(minutes=1), 200

# The condition on `jobs` reads no row. It makes the check wait while the table is locked, which the tally would not
# notice: otherwise the image would be stored before the submission fails.
_LIMITS = text("""
SELECT coalesce(max_open_jobs, :most) AS open_jobs, max_daily_device_seconds AS device_seconds
FROM tenants WHERE id = :tenant AND NOT EXISTS (SELECT FROM jobs WHERE false)
""")
_ENDED_OF_TENANT = statement("shared.jobs", "ended_lately")


@dataclass(frozen=True)
class OpenLimits:
    """The most jobs that may be open: for all tenants together, and for each tenant that has no limit of its own."""

    overall: int
    per_tenant: int


class FullError(DistildireError):
    """Too many jobs are open. Submit again later."""

    def __init__(self, most: int, retry_after: int) -> None:
        super().__init__()
        self.most = most
        self.retry_after = retry_after
        """Seconds after which a tenth of them should have ended, at the rate of the last minute."""


class TenantFullError(FullError):
    """The tenant has as many open jobs as it may have. Submit again when some have ended."""


class ServiceFullError(FullError):
    """The service has as many open jobs as it may have. Submit again when some have ended."""


class QuotaError(DistildireError):
    """The tenant has used up its device seconds of this day. Submit again tomorrow, or ask the operator for more."""

    def __init__(self, most: int, retry_after: int) -> None:
        super().__init__()
        self.most = most
        """Device seconds a day."""
        self.retry_after = retry_after
        """Seconds until the next day begins (UTC)."""


class Admission:
    """Decides whether one more job may be accepted. A process has one."""

    def __init__(self, database: Database, limits: OpenLimits) -> None:
        self._database = database
        self._limits = limits
        self._counting = threading.Lock()
        self._open = 0
        self._known_until = 0.0

    def check_tenant(self, session: Session, tenant_id: UUID) -> int:
        """Return how many more jobs the tenant may have now.

        Raises:
            TenantFullError: as many of its jobs are open as may be.
            QuotaError: it has used up its device seconds of this day.

        """
        limits = session.execute(_LIMITS, {"tenant": tenant_id, "most": self._limits.per_tenant}).one_or_none()
        if limits is not None and limits.device_seconds is not None:
            _check_quota(session, tenant_id, limits.device_seconds)
        most = limits.open_jobs if limits is not None else 0  # None: the tenant was deleted a moment ago
        places = most - tally.open_jobs(session, tenant_id)
        if places <= 0:
            raise TenantFullError(most, retry_after(most, _ended_per_second(session, tenant_id)))
        return places

    def check_service(self) -> None:
        """Raise `ServiceFullError` if all tenants together have too many open jobs.

        The limit is approximate: jobs that are accepted while a count is reused, or at the same moment, can exceed it.
        """
        most = self._limits.overall
        if self._all_open() >= most:
            with self._database.begin() as session:
                ended = sum(tally.ended(session, _RATE_WINDOW).values())
            raise ServiceFullError(most, retry_after(most, ended / _RATE_WINDOW.seconds))

    def hold_tenant(self, session: Session, tenant_id: UUID) -> None:
        """Reserve capacity for one job until this transaction ends; raise `TenantFullError` if the tenant has none.

        Call it in the transaction that writes the job. This makes the limit exact.
        """
        if self.check_tenant(session, tenant_id) <= _CLOSE:
            session.execute(select(func.pg_advisory_xact_lock(_TURNS, func.hashtext(str(tenant_id)))))
            self.check_tenant(session, tenant_id)  # again: others may have committed while this one waited for the lock

    def _all_open(self) -> int:
        """Return the number of open jobs, counted now or a moment ago."""
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


def _ended_per_second(session: Session, tenant_id: UUID) -> float:
    """Return how many jobs of a tenant ended per second recently."""
    values = {"tenant": tenant_id, "seconds": _RATE_WINDOW.seconds, "sample": _SAMPLE}
    ended, seconds = session.execute(_ENDED_OF_TENANT, values).one()
    return int(ended) / (max(float(seconds), 1.0) if ended == _SAMPLE else _RATE_WINDOW.seconds)


def _check_quota(session: Session, tenant_id: UUID, most: int) -> None:
    """Raise `QuotaError` if the tenant has used `most` device seconds today. Jobs that run now do not count yet."""
    now = session.scalars(select(func.now())).one().astimezone(UTC)
    if usage.device_seconds_of_day(session, tenant_id, now.date()) >= most:
        tomorrow = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        raise QuotaError(most, math.ceil((tomorrow - now).total_seconds()))


def retry_after(most: int, per_second: float) -> int:
    """Return the whole seconds until a tenth of `most` jobs has ended, at `per_second` jobs a second; bounded."""
    if per_second <= 0:
        return _LATEST
    return min(max(math.ceil(max(most / _PART, 1) / per_second), _SOONEST), _LATEST)
