"""Sends the webhooks that are due: claim by SQL, post through the egress guard, record, look for the next.

The database holds the schedule; whoever calls `Courier.deliver_due`, and how often, decides only how soon a delivery
that is due is noticed.
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import func, select

from shared.crypto import SecretKeyChangedError, Vault
from shared.database import Database
from shared.deliveries import ClaimedDelivery, Try, claim_due, record_try
from shared.destinations import EgressError
from shared.errors import DatabaseUnavailableError, LeaseLostError
from shared.signing import SigningError, signed_headers
from shared.webhook_schedule import decide
from worker.egress import Egress

_TRY_SECONDS = 15.0
#: Twice what a try takes, so that only a sender that died loses its lease.
_LEASE = timedelta(seconds=30)

_log = structlog.get_logger(__name__)


class Courier:
    """One process's senders. Any number of them may run on one database, in any number of processes."""

    def __init__(
        self, database: Database, egress: Egress, vault: Vault, *, senders: int = 32, per_endpoint: int = 4
    ) -> None:
        """Send at most `senders` webhooks at once, and at most `per_endpoint` (of all processes) to one endpoint."""
        self._database = database
        self._egress = egress
        self._vault = vault
        self._per_endpoint = per_endpoint
        self._free = threading.Semaphore(senders)
        self._pool = ThreadPoolExecutor(max_workers=senders, thread_name_prefix="webhook-sender")
        self._closed = threading.Event()

    def deliver_due(self) -> None:
        """See to it that what is due gets sent, and return at once. Safe to call from any thread, at any time."""
        # No queue of senders: where all are busy, each looks for the next delivery when it ends its own.
        if not self._closed.is_set() and self._free.acquire(blocking=False):
            try:
                self._pool.submit(self._send_until_none_is_due)
            except RuntimeError:  # closed since
                self._free.release()

    def close(self) -> None:
        """Begin no further delivery; return when those under way are recorded, within some 20 seconds."""
        self._closed.set()
        self._pool.shutdown(wait=True)

    def _send_until_none_is_due(self) -> None:
        try:
            while not self._closed.is_set() and (claimed := self._claim()) is not None:
                self.deliver_due()  # where there was one there may be more: one further sender looks
                self._record(claimed, self._try(claimed))
        except DatabaseUnavailableError:
            _log.warning("webhooks_wait_for_the_database")  # the next call of deliver_due looks again
        except Exception:  # noqa: BLE001  # a pool swallows what a thread raises
            _log.exception("webhook_sender_failed")  # what it had claimed is tried again when the lease ends
        finally:
            self._free.release()

    def _claim(self) -> ClaimedDelivery | None:
        return claim_due(self._database, lease=_LEASE, per_endpoint=self._per_endpoint)

    def _try(self, claimed: ClaimedDelivery) -> Try:
        """Post a delivery once; whatever happens is a result."""
        started_at, begun = datetime.now(UTC), time.monotonic()
        status = error = excerpt = None
        try:
            body = claimed.body.encode()
            headers = self._headers(claimed, started_at, body)
            response = self._egress.post(claimed.url, body, headers, _TRY_SECONDS)
            status, excerpt = response.status, response.body_excerpt
        except EgressError as failure:
            error = str(failure.code)
        except (SecretKeyChangedError, SigningError) as failure:
            error = "signing_failed"
            _log.error("webhook_not_signed", endpoint=str(claimed.endpoint_id), reason=failure.message)
        except Exception:  # noqa: BLE001  # a try that is not recorded would be made again every half minute for ever
            error = "internal"
            _log.exception("webhook_try_failed", endpoint=str(claimed.endpoint_id))
        duration_ms = round((time.monotonic() - begun) * 1000)
        return Try(started_at, duration_ms, status=status, error=error, response_excerpt=excerpt)

    def _headers(self, claimed: ClaimedDelivery, now: datetime, body: bytes) -> dict[str, str]:
        secret = self._vault.decrypt(claimed.secret_encrypted)
        signed = signed_headers(secret, claimed.message_id, now, body)
        return {"Content-Type": "application/json", "User-Agent": "distildire-webhooks/1", **signed}

    def _record(self, claimed: ClaimedDelivery, tried: Try) -> None:
        """Decide what follows a try and write both in one transaction, unless the delivery is another's by now."""
        log = _log.bind(
            delivery=str(claimed.id),
            endpoint=str(claimed.endpoint_id),  # never its URL: receivers put tokens into paths
            attempt=claimed.attempt,
            status=tried.status,
            error=tried.error,
            duration_ms=tried.duration_ms,
        )
        try:
            with self._database.begin() as session:
                now = session.scalars(select(func.now())).one()
                # Jitter is no secret.
                decision = decide(claimed.attempt, tried.status, now, random.random())  # noqa: S311
                record_try(session, claimed, tried, decision)
        except LeaseLostError:
            log.warning("webhook_try_came_too_late")
        else:
            log.info("webhook_tried", decision=type(decision).__name__.lower())
