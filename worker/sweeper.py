"""What keeps the queue moving when workers die and messages get lost: the sweep, and wake-ups for what waits."""

from __future__ import annotations

import structlog

from shared import lifecycle, workers
from shared.broker import ANALYSIS_QUEUE, ANALYZE, Broker
from shared.database import Database

_log = structlog.get_logger(__name__)


class Sweeper:
    """Ends what is overdue, queues again what was dropped, and tops up the wake-ups in Redis."""

    def __init__(self, database: Database, broker: Broker, *, max_attempts: int) -> None:
        self._database = database
        self._broker = broker
        self._max_attempts = max_attempts

    def sweep(self) -> lifecycle.SweepReport | None:
        """Sweep once; None where another process is at it. Any number of processes may call this."""
        report = lifecycle.sweep(self._database, max_attempts=self._max_attempts)
        if report:
            workers.forget_silent(self._database)
        if report and (report.released or report.exhausted or report.expired):
            _log.info("swept", released=report.released, exhausted=report.exhausted, expired=report.expired)
        return report

    def sweep_and_wake(self) -> None:
        """Sweep, then see to it that a wake-up waits for each job that does, of those that the sweep counted.

        They are enough to wake every slot of a few workers; a woken slot goes on until nothing is left.
        """
        report = self.sweep()
        if report is None or not report.queued:
            return
        waiting = self._broker.waiting(ANALYSIS_QUEUE)
        if waiting is None:
            return  # Redis is away: workers look by themselves
        for _ in range(report.queued - waiting):
            if not self._broker.wake(ANALYSIS_QUEUE, ANALYZE):
                return
