"""Wake-ups, published by a thread of their own: a Redis that is slow or down delays no request."""

from __future__ import annotations

import queue
import threading
from uuid import UUID

import structlog

from shared.broker.wakeups import Wakeups

#: While Redis is down each try takes seconds. A wake-up that does not fit is dropped: sweeps and idle workers find the
#: job without it.
_CAPACITY = 256

_log = structlog.get_logger(__name__)


class WakeupQueue:
    """A thread that publishes the wake-ups of requests. It starts with the first wake-up, so always after a fork."""

    def __init__(self, wakeups: Wakeups) -> None:
        self._wakeups = wakeups
        self._waiting: queue.Queue[UUID] = queue.Queue(_CAPACITY)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, job_id: UUID) -> None:
        """Have the workers told that a job waits; return at once, whatever Redis does."""
        self._start_once()
        try:
            self._waiting.put_nowait(job_id)
        except queue.Full:
            #: Too many wake-ups waited for Redis, and this one was dropped. The job is safe: a worker finds it without.
            _log.warning("wake_up_dropped", job_id=str(job_id))

    def _start_once(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._publish, name="wakeups", daemon=True)
                self._thread.start()

    def _publish(self) -> None:
        while True:
            job_id = self._waiting.get()
            try:
                self._wakeups.send(str(job_id))
            except Exception:  # noqa: BLE001  # the thread must survive whatever the broker raises
                #: A wake-up could not be sent; the traceback says why. The job is safe: a worker finds it without.
                _log.warning("wake_up_failed", job_id=str(job_id), exc_info=True)
