"""The SQL of webhook deliveries: claim deliveries that are due, record each try, send an ended delivery again.

A delivery is owned as a job is: the attempt that claimed it owns it until the lease ends.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import LargeBinary, Uuid, func, select, text
from sqlalchemy.orm import Session

from shared.database.engine import Database
from shared.database.statements import statement
from shared.database.tables import WebhookAttempt, WebhookDelivery
from shared.domain import DeliveryState
from shared.errors import DistildireError, LeaseLostError
from shared.webhooks.endpoints import disable_endpoint, find_endpoint
from shared.webhooks.outbox import write_endpoint_disabled
from shared.webhooks.retry_schedule import Decision, Delivered, Disable, Retry

#: The most candidate endpoints that one claim compares.
_LOOKED = 64

_TURN = statement("shared.webhooks", "next_endpoint").columns(id=Uuid, item=Uuid)
_RECOVER = statement("shared.webhooks", "recover")
_CLAIM = statement("shared.webhooks", "claim_delivery").columns(
    id=Uuid, endpoint_id=Uuid, secret_encrypted=LargeBinary, old_secret_encrypted=LargeBinary
)

# The conditions read the row as it is now: another try may have ended meanwhile.
_FAILING = text("UPDATE webhook_endpoints SET failing_since = now() WHERE id = :endpoint AND failing_since IS NULL")
_HEALTHY = text("UPDATE webhook_endpoints SET failing_since = NULL WHERE id = :endpoint AND failing_since IS NOT NULL")

# A delivery whose sender died waits again as soon as its lease has ended.
_RELEASE = text("""
UPDATE webhook_deliveries SET lease_until = NULL
WHERE lease_until < now() AND id IN (SELECT id FROM leased_deliveries WHERE lease_until < now())
RETURNING id
""")


class DeliveryPendingError(DistildireError):
    """The delivery has not ended. The service tries it again by itself."""


class EndpointDisabledError(DistildireError):
    """The endpoint is disabled. Enable it, then send the delivery again."""


@dataclass(frozen=True)
class ClaimedDelivery:
    """One try that must be made now."""

    id: UUID
    attempt: int
    planned_try: int
    """Which try of the schedule this is, from 1: `attempt` without those before the delivery was resent."""
    endpoint_id: UUID
    body: str
    url: str
    secret_encrypted: bytes
    old_secret_encrypted: bytes | None
    """The secret before the last rotation, while it also signs."""
    failing_since: datetime | None
    """When the first try after the endpoint's last success failed; None if the last try succeeded."""
    beside: int
    """The number of other tries to the endpoint that are in progress."""

    @property
    def failing(self) -> bool:
        """Whether the endpoint's last try failed."""
        return self.failing_since is not None

    @property
    def message_id(self) -> str:
        """The `webhook-id` header, the same for every try."""
        return f"msg_{self.id.hex}"


@dataclass(frozen=True)
class Try:
    """The outcome of a try, for the tenant's log."""

    started_at: datetime
    duration_ms: int
    status: int | None = None
    error: str | None = None
    response_excerpt: str | None = None

    @property
    def arrived(self) -> bool:
        """Whether the receiver accepted the webhook."""
        return self.status is not None and 200 <= self.status < 300


def claim_due(
    database: Database,
    *,
    lease: timedelta,
    per_endpoint: int,
    per_failing: int = 1,
    proven: Collection[UUID] = (),
    per_proven: int = 0,
) -> ClaimedDelivery | None:
    """Take a delivery that is due, from the endpoint with the fewest tries in progress; None if no delivery is due.

    At most `per_endpoint` tries to one endpoint run at a time; at most `per_failing` if its last try failed, or
    `per_proven` if it is one of the `proven` endpoints, which have answered promptly.
    """
    limits = _limits(per_endpoint, per_failing, proven, per_proven)
    passed: list[UUID] = []  # endpoints from which nothing could be claimed after all
    while True:
        with database.begin() as session:
            turn = session.execute(_TURN, limits | {"passed": passed}).one_or_none()
            place = {"endpoint": turn.id, "at": turn.at, "item": turn.item, "lease": lease} if turn else {}
            row = session.execute(_CLAIM, limits | place).one_or_none() if turn else None
            waits_again = turn is None and bool(session.execute(_RELEASE).all())
        if row is not None:
            return ClaimedDelivery(*row)
        if turn is not None:
            passed.append(turn.id)
        elif not waits_again:
            return None


def is_due(database: Database, *, per_endpoint: int, per_failing: int = 0) -> bool:
    """Whether `claim_due` would find an endpoint to claim for."""
    with database.begin() as session:
        limits = _limits(per_endpoint, per_failing, (), 0)
        return session.execute(_TURN, limits | {"passed": []}).one_or_none() is not None


def _limits(per_endpoint: int, per_failing: int, proven: Collection[UUID], per_proven: int) -> dict[str, object]:
    return {
        "per_endpoint": per_endpoint,
        "per_failing": per_failing,
        "proven": [str(endpoint) for endpoint in proven],
        "per_proven": per_proven,
        "looked": _LOOKED,
    }


def record_try(session: Session, claimed: ClaimedDelivery, tried: Try, decision: Decision) -> bool:
    """Log a try and apply the decision to its delivery and its endpoint; return whether this disabled the endpoint.

    A webhook that arrived counts as delivered, even if its delivery was given up during the try.

    Raises:
        LeaseLostError: another sender has tried since, or the delivery was given up; nothing was written.

    """
    arrived = isinstance(decision, Delivered)
    delivery = session.get(WebhookDelivery, claimed.id, with_for_update=True, populate_existing=True)
    states = (DeliveryState.PENDING, DeliveryState.FAILED) if arrived else (DeliveryState.PENDING,)
    if delivery is None or delivery.attempt != claimed.attempt or delivery.state not in states:
        raise LeaseLostError
    now = session.scalar(select(func.now()))
    delivery.lease_until = None
    delivery.next_attempt_at = decision.at if isinstance(decision, Retry) else None
    if not isinstance(decision, Retry):
        delivery.state = DeliveryState.DELIVERED if arrived else DeliveryState.FAILED
        delivery.finished_at = now
    session.add(WebhookAttempt(delivery_id=claimed.id, attempt=claimed.attempt, **vars(tried)))
    session.flush()
    if claimed.failing == arrived:  # only on a change: otherwise tries would wait for the endpoint's row
        session.execute(_HEALTHY if arrived else _FAILING, {"endpoint": claimed.endpoint_id})
    if not (isinstance(decision, Disable) and disable_endpoint(session, claimed.endpoint_id, decision.reason)):
        return False
    write_endpoint_disabled(session, claimed.endpoint_id)
    return True


def recover(session: Session, endpoint_id: UUID, since: datetime, *, most: int = 10_000) -> int:
    """Start the schedules of an endpoint's failed deliveries again that were written since then, the newest first.

    Returns how many, `most` at most; those that are left over are found by the next call.
    """
    return len(session.execute(_RECOVER, {"endpoint": endpoint_id, "since": since, "most": most}).all())


def resend(session: Session, tenant_id: UUID, delivery_id: UUID) -> WebhookDelivery | None:
    """Start the whole schedule of an ended delivery again, with a try at once; None: the tenant has no such delivery.

    The body and the `webhook-id` do not change, and the log of earlier tries is kept.

    Raises:
        DeliveryPendingError: the delivery has not ended.
        EndpointDisabledError: its endpoint is disabled.

    """
    mine = select(WebhookDelivery).where(WebhookDelivery.id == delivery_id, WebhookDelivery.tenant_id == tenant_id)
    found = session.scalars(mine).one_or_none()
    if found is None:
        return None
    endpoint = find_endpoint(session, tenant_id, found.endpoint_id)
    if endpoint is None:  # deleted since, and its deliveries with it
        return None
    delivery = session.scalars(mine.with_for_update().execution_options(populate_existing=True)).one_or_none()
    if delivery is None:
        return None
    if delivery.state == DeliveryState.PENDING:
        raise DeliveryPendingError
    if endpoint.disabled_at is not None:
        raise EndpointDisabledError
    delivery.state, delivery.finished_at, delivery.tries_before = DeliveryState.PENDING, None, delivery.attempt
    delivery.next_attempt_at = delivery.begun_at = session.scalars(select(func.now())).one()
    session.flush()
    return delivery
