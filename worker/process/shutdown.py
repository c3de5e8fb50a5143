"""How a worker's process ends when it is told to by SIGTERM: in order, in time, and from its first moment on.

worker/tasks.py imports this before anything else, and that alone installs the handler: what it imports next takes
seconds, the model more of them. Later Celery puts its own handler in the place of this one, and calls `tell`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shared.workers.registry import WorkerStatus

#: What a server that does not answer may cost when the time is up.
_RELEASE_SECONDS, _LEAVE_SECONDS = 3.0, 1.0


class Service(Protocol):
    """Does the work behind the tasks of one role."""

    def begin(self) -> None:
        """Begin to work."""

    def status(self) -> WorkerStatus:
        """Return how it fares."""

    def stop(self) -> None:
        """Begin nothing more; returns at once."""

    def release_jobs(self) -> bool:
        """Give back what is carried; return whether nothing was left undone that somebody must wait for."""

    def close(self) -> None:
        """End, when what is under way is done."""


class Shutdown:
    """A thread that waits for the end, since a signal handler may do next to nothing: it runs between any two lines."""

    def __init__(self) -> None:
        self.services: list[Service] = []
        """What there is to stop. While this is empty, nothing is carried."""
        self.seconds = 0.0
        """How long services may take to end."""
        self.on_close: Callable[[float], None] = lambda _: None
        """Called last, with the seconds that it may take."""
        self._told: SimpleQueue[float] = SimpleQueue()  # its `put` alone may interrupt itself
        threading.Thread(target=self._run, name="shutdown", daemon=True).start()

    def tell(self, *_: object) -> None:
        """Begin to end. Safe in a signal handler, and any number of times."""
        self._told.put(time.monotonic())

    def _run(self) -> None:
        told_at = self._told.get()
        if self.services:
            self._stop_services()
            time.sleep(max(0.0, told_at + self.seconds - time.monotonic()))
        done = within(_RELEASE_SECONDS, self._release_jobs)  # the process has ended by now, as a rule
        self.on_close(_LEAVE_SECONDS)
        os._exit(0 if done else 1)  # a thread that is in the device or in a server's answer cannot be ended otherwise

    def _stop_services(self) -> None:
        import structlog
        from celery.worker import state

        for service in self.services:
            try:
                service.stop()
            except Exception:  # noqa: BLE001  # whatever it was, this process must end
                #: A service of a worker that was told to stop raised an error. The worker ends all the same.
                structlog.get_logger(__name__).exception("part_not_stopped")
        state.should_stop = 0  # type: ignore[assignment]  # Celery's own handler may not be there yet

    def _release_jobs(self) -> bool:
        answers = [service.release_jobs() for service in self.services]  # each of them, whatever the first one says
        return all(answers)


def within(seconds: float, call: Callable[[], bool]) -> bool:
    """Return what `call` returns; False where it raises, or takes longer."""
    answers: SimpleQueue[bool] = SimpleQueue()
    thread = threading.Thread(target=lambda: answers.put(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return not answers.empty() and answers.get()


shutdown = Shutdown()
signal.signal(signal.SIGTERM, shutdown.tell)
