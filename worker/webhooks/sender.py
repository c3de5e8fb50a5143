"""Sends the webhooks that are due. It claims one by SQL, posts it through the egress guard and records the try.

The database holds the schedule. How often `WebhookSender.deliver_due` is called determines only how soon a due delivery
is noticed.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Self
from uuid import UUID

import structlog
from sqlalchemy import func, select

from shared.crypto import SecretKeyChangedError, Vault
from shared.database.engine import Database
from shared.egress.url_policy import EgressError
from shared.errors import DatabaseUnavailableError, LeaseLostError
from shared.webhooks.deliveries import ClaimedDelivery, Try, claim_due, record_try
from shared.webhooks.retry_schedule import Disable, decide
from shared.webhooks.signatures import SigningError, signed_headers
from worker.egress.http_client import Egress

_TRY_SECONDS = 15.0
#: Twice the longest try, so that a sender loses its lease only if it dies.
_LEASE = timedelta(seconds=30)

#: An endpoint that accepted a webhook within this time counts as prompt.
_LATELY_SECONDS = 60.0

_log = structlog.get_logger(__name__)


class OwnFault(StrEnum):
    """The reasons why a try got no response that are the service's own fault; `EgressCode` has all others."""

    #: The endpoint's secret cannot be used, as after `SECRET_KEY` was changed. Register the endpoint again.
    SIGNING_FAILED = "signing_failed"
    #: The service met an error that it does not expect. Tell the operator.
    INTERNAL = "internal"


class Permit:
    """One permit of a semaphore, if one is free: held until the end of the block or until `release`."""

    def __init__(self, semaphore: threading.Semaphore) -> None:
        self._semaphore = semaphore
        self.held = False

    def __enter__(self) -> Self:
        self.held = self._semaphore.acquire(blocking=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the permit if it is held."""
        if self.held:
            self.held = False
            self._semaphore.release()


class Prompt:
    """The endpoints that recently accepted a webhook from this process, and have failed no try since."""

    def __init__(self) -> None:
        self._took_at: dict[UUID, float] = {}
        self._lock = threading.Lock()

    def note(self, endpoint_id: UUID, now: float, *, arrived: bool) -> None:
        """Record whether a try to the endpoint succeeded."""
        with self._lock:
            self._took_at.pop(endpoint_id, None)
            if arrived:
                self._took_at[endpoint_id] = now

    def now(self, now: float) -> list[UUID]:
        """Return the endpoints that are prompt at the time `now`."""
        with self._lock:
            self._took_at = {each: at for each, at in self._took_at.items() if now - at < _LATELY_SECONDS}
            return list(self._took_at)


class WebhookSender:
    """The sending threads of one process. Any number of processes may send from one database."""

    def __init__(
        self,
        database: Database,
        egress: Egress,
        vault: Vault,
        *,
        senders: int = 32,
        per_endpoint: int = 4,
        disable_after: timedelta = timedelta(days=5),
    ) -> None:
        """Send at most `senders` webhooks at once, and at most `per_endpoint` (of all processes) to one endpoint.

        An endpoint whose last try failed gets one try at a time, and all such endpoints together at most half of the
        senders. So however many receivers hang, the others are served. A prompt endpoint, which recently accepted
        webhooks and has failed none since, may exceed `per_endpoint` while senders are free; all such endpoints
        together may use a quarter of the senders for this. The last quarter is left for other endpoints. An endpoint to
        which every try has failed for `disable_after` is disabled.
        """
        self.senders = senders
        self.taken = 0
        """The number of deliveries claimed since the start."""
        self.busy = 0
        """The number of tries in progress."""
        self._counting = threading.Lock()
        self._database = database
        self._egress = egress
        self._vault = vault
        self._disable_after = disable_after
        self.per_endpoint = per_endpoint
        self._for_failing = threading.Semaphore(senders // 2)
        self._for_more = threading.Semaphore(senders // 4)
        self._prompt = Prompt()
        self._free = threading.Semaphore(senders)
        self._pool = ThreadPoolExecutor(max_workers=senders, thread_name_prefix="webhook-sender")
        self._closed = threading.Event()

    def deliver_due(self) -> None:
        """Let a free sender send what is due; return at once. Any thread may call this at any time."""
        # If all senders are busy, nothing is queued: each looks for the next delivery after its own.
        if not self._closed.is_set() and self._free.acquire(blocking=False):
            try:
                self._pool.submit(self._send_until_none_is_due)
            except RuntimeError:  # closed since
                self._free.release()

    @property
    def closed(self) -> bool:
        """Whether no further delivery is started."""
        return self._closed.is_set()

    def stop(self) -> None:
        """Start no further delivery."""
        self._closed.set()

    def close(self) -> None:
        """Start no further delivery; return when those in progress are recorded, within some 20 seconds."""
        self._closed.set()
        self._pool.shutdown(wait=True)

    def _send_until_none_is_due(self) -> None:
        try:
            while not self._closed.is_set() and self._send_next():
                pass
        except DatabaseUnavailableError:
            #: PostgreSQL does not answer. Webhooks are sent when it answers again.
            _log.warning("webhooks_wait_for_the_database")  # the next call of deliver_due looks again
        except Exception:  # noqa: BLE001  # the pool would swallow it
            #: A sender of webhooks failed with an unexpected error. The webhook that it had claimed is tried again when
            #: the lease ends.
            _log.exception("webhook_sender_failed")
        finally:
            self._free.release()

    def _send_next(self) -> bool:
        """Try one delivery that is due; return whether there was one."""
        with Permit(self._for_failing) as may_fail, Permit(self._for_more) as may_have_more:
            claimed = claim_due(
                self._database,
                lease=_LEASE,
                per_endpoint=self.per_endpoint,
                per_failing=1 if may_fail.held else 0,
                proven=self._prompt.now(time.monotonic()) if may_have_more.held else (),
                per_proven=self.per_endpoint + self.senders // 4,
            )
            if claimed is None:
                return False
            if not claimed.failing:
                may_fail.release()
            if claimed.beside < self.per_endpoint:
                may_have_more.release()
            self.deliver_due()  # there may be more: let another sender look
            with self._under_way():
                tried, retry_after = self._try(claimed)
                self._prompt.note(claimed.endpoint_id, time.monotonic(), arrived=tried.arrived)
                self._record(claimed, tried, retry_after)
        return True

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        with self._counting:
            self.taken, self.busy = self.taken + 1, self.busy + 1
        try:
            yield
        finally:
            with self._counting:
                self.busy -= 1

    def _try(self, claimed: ClaimedDelivery) -> tuple[Try, str | None]:
        """Post a delivery once; return the try and the receiver's `Retry-After`. Every error is a result of the try."""
        started_at, begun = datetime.now(UTC), time.monotonic()
        status = error = excerpt = retry_after = None
        try:
            body = claimed.body.encode()
            headers = self._headers(claimed, started_at, body)
            response = self._egress.post(claimed.url, body, headers, _TRY_SECONDS)
            status, excerpt, retry_after = response.status, response.body_excerpt, response.retry_after
        except EgressError as failure:
            error = str(failure.code)
        except (SecretKeyChangedError, SigningError) as failure:
            error = str(OwnFault.SIGNING_FAILED)
            #: A webhook cannot be signed with its endpoint's secret, as after `SECRET_KEY` was changed. The endpoint
            #: must be registered again.
            _log.error("webhook_not_signed", endpoint=str(claimed.endpoint_id), reason=failure.message)
        except Exception:  # noqa: BLE001  # an unrecorded try would be repeated every half minute for ever
            error = str(OwnFault.INTERNAL)
            #: A try of a webhook failed with an unexpected error, and counts as failed. Report the traceback.
            _log.exception("webhook_try_failed", endpoint=str(claimed.endpoint_id))
        duration_ms = round((time.monotonic() - begun) * 1000)
        return Try(started_at, duration_ms, status=status, error=error, response_excerpt=excerpt), retry_after

    def _headers(self, claimed: ClaimedDelivery, now: datetime, body: bytes) -> dict[str, str]:
        stored = (claimed.secret_encrypted, claimed.old_secret_encrypted)
        secrets = [self._vault.decrypt(secret) for secret in stored if secret is not None]
        signed = signed_headers(secrets, claimed.message_id, now, body)
        return {"Content-Type": "application/json", "User-Agent": "distildire-webhooks/1", **signed}

    def _record(self, claimed: ClaimedDelivery, tried: Try, retry_after: str | None) -> None:
        """Decide what follows a try and write both in one transaction, unless another sender owns it by now."""
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
                # Jitter need not be unpredictable.
                chance = random.random()  # noqa: S311
                decision = decide(
                    claimed.planned_try,
                    tried.status,
                    now,
                    chance,
                    disable_after=self._disable_after,
                    failing_since=claimed.failing_since,
                    retry_after=retry_after,
                )
                disabled = record_try(session, claimed, tried, decision)
        except LeaseLostError:
            #: A try of a webhook ended after its lease. Another process makes it again, and this result is dropped.
            log.warning("webhook_try_came_too_late")
        else:
            #: A webhook was tried. `status` is the receiver's response, or `error` says why there is none; `decision`
            #: says what follows.
            log.info("webhook_tried", decision=type(decision).__name__.lower())
            if disabled and isinstance(decision, Disable):
                #: An endpoint was disabled, for the `reason` that its tenant also sees. The webhooks that wait for it
                #: are given up.
                log.warning("webhook_endpoint_disabled", reason=decision.reason)
