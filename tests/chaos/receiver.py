"""The customers' side of webhooks: a receiver that keeps all it got, and can be made to behave badly for a while."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from contextlib import ExitStack

from tests.chaos.evidence import Observed, Receipt
from tests.support.receivers import Received, running_receiver

_GOOD = "200"
#: Behaviours that begin with a head that says 200: the webhook is received, whatever happens to the rest.
_ACCEPTING = {_GOOD, "gigabyte", "drip-body"}


class Receiver:
    """One server of `tests/support/receivers.py`; endpoints differ by their query."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._inner = self._running.enter_context(running_receiver())
        self.port = self._inner.port

    def endpoint(self, name: str) -> str:
        """The URL of the endpoint `name`."""
        return self._inner.url(f"/{_GOOD}?{name}")

    def misbehave(self, behaviour: str) -> None:
        """Have every endpoint behave as that path does."""
        self._inner.behaviour = behaviour

    def behave(self) -> None:
        """Have every endpoint answer 200 again, and let go of who was kept waiting."""
        self._inner.behaviour = None
        waiting, self._inner.released = self._inner.released, threading.Event()
        waiting.set()

    def hang(self, endpoint: str) -> None:
        """Have one endpoint accept what is sent and never answer."""
        self._inner.hanging.add(endpoint)

    def answer(self, endpoint: str) -> None:
        """Have it answer again."""
        self._inner.hanging.discard(endpoint)

    def receipts(self) -> list[Receipt]:
        """Return what was received."""
        return [self._receipt(each) for each in self._whole()]

    def observed(self) -> list[Observed]:
        """Return the outcomes that webhooks told of."""
        told = [json.loads(each.body)["data"] for each in self._whole()]
        return [Observed(job["id"], job["status"], "a webhook") for job in told]

    def close(self) -> None:
        """Receive no more."""
        self._running.close()

    def _whole(self) -> list[Received]:
        """What arrived whole: a sender that is killed leaves half a body."""
        return [each for each in list(self._inner.received) if len(each.body) == int(each.headers["content-length"])]

    def _receipt(self, received: Received) -> Receipt:
        return Receipt(
            endpoint=self._inner.url(received.path),
            message=received.headers["webhook-id"],
            job=json.loads(received.body)["data"]["id"],
            body_sha256=hashlib.sha256(received.body).hexdigest(),
            answered=received.behaviour in _ACCEPTING,
        )


def endpoints_of(receiver: Receiver, tenants: Sequence[str]) -> dict[str, list[str]]:
    """Return the URLs of each tenant's endpoints: the first has two."""
    return {
        tenant: [receiver.endpoint(f"{tenant}-{part}") for part in ("a", "b")[: 2 if number == 0 else 1]]
        for number, tenant in enumerate(tenants)
    }
