"""kombu's Redis transport, with two errors corrected that ended workers: over a lost Redis, and over odd messages."""

from __future__ import annotations

import base64
import json
from queue import Empty
from typing import Any

import structlog
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as stock
from redis.exceptions import ConnectionError as RedisConnectionError

#: Queues for what workers say to each other.
_CELERYS_OWN = ".pidbox"

_log = structlog.get_logger(__name__)


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

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # not in the published types
        except ValueError:  # it is not even JSON, and gone from the queue
            _log.warning("message_refused")
            raise Empty from None


class Transport(stock.Transport):
    """The transport of `redis://` and `rediss://`, which drops what is no wake-up.

    The stock one hands everything to Celery, which ends the worker over some of it, and repeats much of it in its log.
    """

    Channel = Channel

    def _deliver(self, message: Any, queue: str | None) -> None:
        if (queue or "").endswith(_CELERYS_OWN) or is_wake_up(message):
            super()._deliver(message, queue)
        else:
            #: Redis held a message that no process of this service sends, and it was dropped. Find out who else can
            #: write to Redis.
            _log.warning("message_refused", queue=queue)


def is_wake_up(message: Any) -> bool:
    """Whether a message is a call of a task as `Broker` and beat send it, and nothing beside."""
    try:
        properties, headers = message["properties"], message["headers"]
        known = message["content-type"] == "application/json" and "compression" not in headers
        encoded = base64.b64decode(message["body"]) if properties["body_encoding"] == "base64" else message["body"]
        arguments, named, links = json.loads(encoded)
        named_well = all(
            isinstance(found, str) for found in (headers["id"], headers["task"], properties["delivery_tag"])
        )
        return known and named_well and arguments == [] and named.keys() <= {"reference"} and not any(links.values())
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def install() -> None:
    """Have kombu use it, for every connection that is made from now on."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{Transport.__module__}:{Transport.__qualname__}"
