"""kombu's Redis transport, with two faults corrected that ended workers: a lost connection, and odd messages."""

from __future__ import annotations

import base64
import json
from queue import Empty
from typing import Any

import structlog
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as stock
from redis.exceptions import ConnectionError as RedisConnectionError

#: The end of the names of Celery's own queues, by which workers talk to each other.
_CELERYS_OWN = ".pidbox"

_log = structlog.get_logger(__name__)


class Channel(stock.Channel):
    """A channel whose connection was lost raises the error that Celery expects.

    kombu's own raises AttributeError when a message is acknowledged or returned after the connection was lost. Celery
    takes that for a bug of its own and ends the worker.
    """

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002  # kombu's signature
        if self.connection.client is None:
            raise RedisConnectionError("The connection was closed.")
        parameters: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc]  # not in the published types
        return parameters

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # not in the published types
        except ValueError:  # the message is not even JSON, and is no longer in the queue
            _log.warning("message_refused")
            raise Empty from None


class Transport(stock.Transport):
    """The transport of `redis://` and `rediss://`. It drops every message that is not a wake-up.

    kombu's own hands every message to Celery, which ends the worker over some of them and logs much of their content.
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
    """Whether a message is exactly a call of a task as `Broker` and beat send it."""
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
    """Have kombu use this transport for every connection that it opens from now on."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{Transport.__module__}:{Transport.__qualname__}"
