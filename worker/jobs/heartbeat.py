"""The callback that extends the leases of all jobs that a worker runs, and learns which leases it has lost."""

from __future__ import annotations

import time
from datetime import timedelta

import structlog

from shared.database.engine import Database
from shared.errors import DatabaseUnavailableError
from shared.jobs import lifecycle
from worker.jobs.attempt import ON_DEVICE, RunningAttempt, RunningAttempts

#: A thread that stays in one stage for so long hangs. The device's stages are exempt: its passes have their own limit.
STAGE_SECONDS = 300.0
_BEAT_SECONDS = 1.0
#: Beats in a lease. Several, since some may fail.
_BEATS = 6

_log = structlog.get_logger(__name__)


class Heartbeat:
    """Extends the leases of all running attempts by one UPDATE, every `seconds`."""

    def __init__(
        self, database: Database, attempts: RunningAttempts, *, lease: timedelta, stage_seconds: float = STAGE_SECONDS
    ) -> None:
        self._database = database
        self._attempts = attempts
        self._lease = lease
        self._stage_seconds = stage_seconds
        self._answered_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """How often to beat."""
        return min(_BEAT_SECONDS, self._lease.total_seconds() / _BEATS)

    def beat(self) -> None:
        """Extend the leases of attempts within their stage's time limit; mark as lost those that are not ours."""
        running = self._attempts.now()
        timely = [attempt for attempt in running if not self._overdue(attempt)]
        try:
            held = lifecycle.heartbeat(
                self._database, {attempt.job.attempt_id: attempt.stage for attempt in timely}, lease=self._lease
            )
        except DatabaseUnavailableError:
            self._lose_unconfirmed(running)
            return
        self._answered_at = time.monotonic()
        for attempt in timely:
            if attempt.job.attempt_id not in held:
                attempt.lose()

    def _overdue(self, attempt: RunningAttempt) -> bool:
        if attempt.stage in ON_DEVICE or time.monotonic() - attempt.stage_since < self._stage_seconds:
            return False
        if not attempt.lost:
            #: A job exceeded the time limit of its `stage`. The worker no longer extends its lease, so it runs again.
            _log.error("stage_took_too_long", job_id=str(attempt.job.id), stage=attempt.stage)
            attempt.lose()
        return True

    def _lose_unconfirmed(self, running: list[RunningAttempt]) -> None:
        """Lose the attempts whose lease has ended unconfirmed: another worker takes them once the database is back."""
        oldest = time.monotonic() - self._lease.total_seconds()
        for attempt in running:
            if max(self._answered_at, attempt.claimed_at) < oldest and not attempt.lost:
                #: PostgreSQL did not confirm a job's lease for as long as the lease lasts. The worker stops the job,
                #: and it runs again.
                _log.warning("lease_not_confirmed", job_id=str(attempt.job.id))
                attempt.lose()
