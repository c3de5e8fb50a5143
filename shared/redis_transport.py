"""kombu's Redis transport, with one error corrected that ended workers when Redis went away."""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as stock
from redis.exceptions import ConnectionError as RedisConnectionError


class Channel(stock.Channel):
    """A channel that outlives its connection says so by the error that Celery expects.

    The stock one raises AttributeError where a message is acknowledged, or given back, after the connection was
    lost. Celery takes that for a bug of its own and ends the worker.
    """

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002  # kombu's signature
        if self.connection.client is None:
            raise RedisConnectionError("The connection was given up.")
        parameters: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc]  # not in the published types
        return parameters


class Transport(stock.Transport):
    """The transport of `redis://` and `rediss://`."""

    Channel = Channel


def install() -> None:
    """Have kombu use it, for every connection that is made from now on."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{Transport.__module__}:{Transport.__qualname__}"
