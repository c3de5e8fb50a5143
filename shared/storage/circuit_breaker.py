"""Waiting for a server that keeps silent: once, not once for each caller, who would all wait in a row of threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.errors import ObjectMissingError, StoreUnavailableError


class CircuitBreaker:
    """Knows whether the store kept silent the last time. One caller then asks again; the others are told at once."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """A call that fails after so many seconds was met with silence."""
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._silent = False
        self._asked_at = 0.0

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask the store inside the block.

        Raises:
            StoreUnavailableError: it was silent a moment ago, and somebody else is finding out whether it still is.

        """
        if not self._may_ask():
            raise StoreUnavailableError
        began = self._clock()
        try:
            yield
        except StoreUnavailableError:
            self._silent = self._clock() - began >= self._seconds
            raise
        except ObjectMissingError:
            self._silent = False
            raise
        self._silent = False

    def _may_ask(self) -> bool:
        with self._lock:
            now = self._clock()
            if self._silent and now < self._asked_at + self._seconds:
                return False
            self._asked_at = now
            return True
