"""How many requests a key may make in a minute, counted in Redis for all processes of the API together.

The limit protects the service from a client that runs away. It is no safeguard: where Redis does not answer, every
request passes.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from uuid import UUID

import structlog
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

WINDOW_SECONDS = 60
#: In every answer to a valid key.
RATE_HEADERS = ("RateLimit-Policy", "RateLimit")
#: Before Redis counts as away. One request waits for so long; those after it do not wait at all.
_SOCKET_SECONDS = 0.25
#: So often one thread looks whether Redis is back.
_PROBE_SECONDS = 2.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Allowance:
    """What a key may still do: a row of the headers that draft-ietf-httpapi-ratelimit-headers-10 defines."""

    quota: int
    """Requests a minute."""
    remaining: int
    reset_seconds: int
    """Seconds after which more requests are allowed than now."""
    refused: bool = False

    def headers(self) -> dict[str, str]:
        """Return `RateLimit-Policy` and `RateLimit`, and `Retry-After` for a request that is refused."""
        described = {
            "RateLimit-Policy": f'"default";q={self.quota};w={WINDOW_SECONDS}',
            "RateLimit": f'"default";r={self.remaining};t={self.reset_seconds}',
        }
        return described | ({"Retry-After": str(max(1, self.reset_seconds))} if self.refused else {})


class RateLimiter:
    """Counts requests by key over a sliding minute. One for each process."""

    def __init__(self, redis_url: str, per_minute: int) -> None:
        """Nothing connects before the first request.

        Args:
            redis_url: of the Redis that all processes of the API share.
            per_minute: requests that a key may make in any minute.

        """
        connections = ConnectionPool.from_url(
            redis_url,
            socket_timeout=_SOCKET_SECONDS,
            socket_connect_timeout=_SOCKET_SECONDS,
            retry=Retry(NoBackoff(), 0),  # by default the client tries four times, and a request would wait for all
        )
        self._storage = RedisStorage(redis_url, connections, key_prefix="distildire-rate")
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._limit = RateLimitItemPerMinute(per_minute)
        self._lock = threading.Lock()
        self._away = False

    def count(self, key_id: UUID) -> Allowance:
        """Count a request of a key, and return what that leaves. While Redis is away nothing is counted or refused."""
        untouched = Allowance(self._limit.amount, self._limit.amount, WINDOW_SECONDS)
        if self._away:
            return untouched
        try:
            allowed = self._limiter.hit(self._limit, str(key_id))
            window = self._limiter.get_window_stats(self._limit, str(key_id))
        except (RedisError, OSError) as error:
            self._open_circuit(error)
            return untouched
        reset = max(0, math.ceil(window.reset_time - time.time())) or WINDOW_SECONDS  # 0: the window has just begun
        return Allowance(self._limit.amount, window.remaining, reset, refused=not allowed)

    def _open_circuit(self, error: Exception) -> None:
        """Stop asking Redis, and have one thread find out when it is back."""
        with self._lock:
            if self._away:
                return
            self._away = True
        #: Redis did not answer, so requests are not counted and no key is held to its rate limit. Look at Redis.
        _log.warning("rate_limits_off", cause=type(error).__name__)
        threading.Thread(target=self._close_circuit, name="rate-limit-probe", daemon=True).start()

    def _close_circuit(self) -> None:
        pause = threading.Event()
        while not self._storage.check():
            pause.wait(_PROBE_SECONDS)
        self._away = False
        #: Redis answers again, and requests are counted.
        _log.info("rate_limits_on")
