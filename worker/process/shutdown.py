"""How a worker's process ends on SIGTERM: in order, in time, and from its first moment on.

The entries, worker/__main__.py and worker/tasks.py, call `install` before they import anything else: those imports take
seconds, and loading the model takes longer. Later Celery replaces the handler by its own, which calls `Shutdown.tell`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import cache
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shared.workers.registry import WorkerStatus

#: After the time for finishing is up, so long is waited for a server that does not answer.
_RELEASE_SECONDS, _LEAVE_SECONDS = 3.0, 1.0


class Service(Protocol):
    """Does the work behind the tasks of one role."""

    def begin(self) -> None:
        """Start to work."""

    def status(self) -> WorkerStatus:
        """Return its state, for the list of workers."""

    def stop(self) -> None:
        """Take no more work; return at once."""

    def release_jobs(self) -> bool:
        """Put unfinished work back into its queue; return False where some must wait for its lease to end."""

    def close(self) -> None:
        """Finish what is under way, then end."""


class Shutdown:
    """A thread that ends this process when `tell` is called.

    The signal handler itself only calls `tell`: it interrupts other code between any two lines, so it may take no lock.
    """

    def __init__(self) -> None:
        self.services: list[Service] = []
        """What there is to stop. While this is empty, no job runs here."""
        self.seconds = 0.0
        """How long the services may take to finish what they are doing."""
        self.on_close: Callable[[float], None] = lambda _: None
        """Called last, with the number of seconds that it may take."""
        self._told: SimpleQueue[float] = SimpleQueue()  # `put` of this queue is reentrant, as a signal handler needs

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="shutdown", daemon=True).start()

    def tell(self, *_: object) -> None:
        """Start to end this process. Safe in a signal handler, and may be called again."""
        self._told.put(time.monotonic())

    def _run(self) -> None:
        told_at = self._told.get()
        if self.services:
            self._stop_services()
            time.sleep(max(0.0, told_at + self.seconds - time.monotonic()))
        done = within(_RELEASE_SECONDS, self._release_jobs)  # most processes have ended before this line
        self.on_close(_LEAVE_SECONDS)
        os._exit(0 if done else 1)  # a thread that waits for the device or a server cannot be interrupted

    def _stop_services(self) -> None:
        import structlog
        from celery.worker import state

        for service in self.services:
            try:
                service.stop()
            except Exception:  # noqa: BLE001  # whatever it was, this process must end
                #: A service raised an error when it was told to stop. The worker ends all the same.
                structlog.get_logger(__name__).exception("part_not_stopped")
        state.should_stop = 0  # type: ignore[assignment]  # what Celery's handler does, which may not be installed yet

    def _release_jobs(self) -> bool:
        answers = [service.release_jobs() for service in self.services]  # each, even after a False
        return all(answers)


def within(seconds: float, call: Callable[[], bool]) -> bool:
    """Return what `call` returns; False where it raises, or takes longer."""
    answers: SimpleQueue[bool] = SimpleQueue()
    thread = threading.Thread(target=lambda: answers.put(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return not answers.empty() and answers.get()


@cache
def install() -> Shutdown:
    """Have SIGTERM end this process in order from now on; return what does that. Later calls return the same."""
    shutdown = Shutdown()
    shutdown.start()
    signal.signal(signal.SIGTERM, shutdown.tell)
    return shutdown
