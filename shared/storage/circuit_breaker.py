"""A circuit breaker: while a server does not answer, one caller waits for it, and all others are refused at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.errors import ObjectMissingError, StoreUnavailableError


class CircuitBreaker:
    """Opens when the store did not answer. Then one caller in each period asks again, and the others are refused."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """A call that fails after `seconds` or more got no answer."""
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._silent = False
        self._asked_at = 0.0

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Call the store inside the block.

        Raises:
            StoreUnavailableError: it did not answer a moment ago, and another caller is asking whether it does now.

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
