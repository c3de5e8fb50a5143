"""Which messages workers take: what `Broker` and beat send, and nothing beside it."""

from __future__ import annotations

import base64
import json
from copy import deepcopy
from typing import Any

import pytest

from shared.broker.redis_transport import is_wake_up

#: As Celery and kombu put a wake-up into Redis. That this is so, test_broker.py asks of a real one.
WAKE_UP: dict[str, Any] = {
    "body": base64.b64encode(
        json.dumps(
            [[], {"reference": "the-id"}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
        ).encode()
    ).decode(),
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {"lang": "py", "task": "worker.analyze", "id": "1", "root_id": "1", "argsrepr": "()"},
    "properties": {"correlation_id": "1", "delivery_tag": "1", "body_encoding": "base64"},
}


def with_body(arguments: object, named: object, links: object) -> dict[str, Any]:
    body = json.dumps([arguments, named, links]).encode()
    return WAKE_UP | {"body": base64.b64encode(body).decode()}


def changed(part: str, **changes: object) -> dict[str, Any]:
    return WAKE_UP | {part: WAKE_UP[part] | changes}


def without(part: str, name: str) -> dict[str, Any]:
    message = deepcopy(WAKE_UP)
    del message[part][name]
    return message


def test_what_broker_and_beat_send_is_taken() -> None:
    assert is_wake_up(WAKE_UP)
    assert is_wake_up(with_body([], {}, {}))
    plain = json.dumps([[], {"reference": None}, {}])
    assert is_wake_up(WAKE_UP | {"body": plain, "properties": WAKE_UP["properties"] | {"body_encoding": None}})


OTHERS: dict[str, object] = {
    "an argument": with_body(["a"], {}, {}),
    "arguments that are no list": with_body({}, {}, {}),
    "no arguments": with_body(None, {}, {}),
    "another named argument": with_body([], {"reference": "x", "more": 1}, {}),
    "named arguments that are a list": with_body([], ["reference"], {}),
    "a callback": with_body([], {}, {"callbacks": [{"task": "worker.sweep"}]}),
    "an error's callback": with_body([], {}, {"errbacks": [{"task": "worker.sweep"}]}),
    "a chain": with_body([], {}, {"chain": [{"task": "worker.sweep"}]}),
    "a chord": with_body([], {}, {"chord": {"task": "worker.sweep"}}),
    "no links": with_body([], {}, None),
    "two parts": WAKE_UP | {"body": base64.b64encode(b"[[], {}]").decode()},
    "no JSON": WAKE_UP | {"body": base64.b64encode(b"\x93").decode()},
    "no base64": WAKE_UP | {"body": "not base64"},
    "no body": WAKE_UP | {"body": None},
    "a pickle": WAKE_UP | {"content-type": "application/x-python-serialize"},
    "an empty type": WAKE_UP | {"content-type": ""},
    "a compressed body": changed("headers", compression="application/x-gzip"),
    "an id that is a number": changed("headers", id=1),
    "a task that is nothing": changed("headers", task=None),
    "a tag that is a number": changed("properties", delivery_tag=7),
    "without an id": without("headers", "id"),
    "without a task": without("headers", "task"),
    "without a tag": without("properties", "delivery_tag"),
    "without an encoding": without("properties", "body_encoding"),
    "without headers": {name: part for name, part in WAKE_UP.items() if name != "headers"},
    "without properties": {name: part for name, part in WAKE_UP.items() if name != "properties"},
    "without a type": {name: part for name, part in WAKE_UP.items() if name != "content-type"},
    "headers that are nothing": WAKE_UP | {"headers": None},
    "a list": [1, 2],
    "nothing": None,
    "a string": "a string",
}


@pytest.mark.parametrize("message", OTHERS.values(), ids=OTHERS)
def test_all_else_is_refused(message: object) -> None:
    assert not is_wake_up(message)
