"""The SQL of webhook deliveries: claim what is due, record each try, list them for their tenant.

A delivery is owned like a job: by the attempt that claimed it, until its lease ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import LargeBinary, Uuid, func, select, text
from sqlalchemy.orm import Session

from shared.database import Database
from shared.errors import DistildireError, LeaseLostError
from shared.tables import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from shared.webhook_schedule import Decision, Delivered, Disable, Retry

# One look at each endpoint, whatever waits behind it: its own oldest delivery that is due, by index. Those with the
# fewest tries under way come first, so a receiver that hangs waits for others and not they for it. The lock is tried,
# never waited for, and is one endpoint's: a process that is frozen in the middle of a claim stops that endpoint alone,
# until PostgreSQL ends its transaction.
_TURN = text("""
WITH turn AS MATERIALIZED (
    SELECT endpoint.id
    FROM webhook_endpoints AS endpoint
    CROSS JOIN LATERAL (
        SELECT next_attempt_at FROM webhook_deliveries
        WHERE endpoint_id = endpoint.id AND state = 'pending' AND next_attempt_at <= now()
          AND (lease_until IS NULL OR lease_until < now())
        ORDER BY next_attempt_at
        LIMIT 1
    ) AS head
    CROSS JOIN LATERAL (
        SELECT count(*) AS tries FROM webhook_deliveries WHERE endpoint_id = endpoint.id AND lease_until > now()
    ) AS busy
    WHERE endpoint.disabled_at IS NULL AND endpoint.id <> ALL (CAST(:passed AS uuid[]))
      AND busy.tries < CASE WHEN endpoint.failing_since IS NULL THEN :per_endpoint ELSE :per_failing END
    ORDER BY busy.tries, head.next_attempt_at, endpoint.id
)
SELECT id FROM turn WHERE pg_try_advisory_xact_lock(1147498341, hashtext(CAST(id AS text))) LIMIT 1
""").columns(id=Uuid)

# A statement of its own: it sees what the endpoint's last claim, which held the lock before, has committed.
_CLAIM = text("""
UPDATE webhook_deliveries SET attempt = attempt + 1, lease_until = now() + :lease
FROM webhook_endpoints AS endpoint
WHERE webhook_deliveries.id = (
    SELECT id FROM webhook_deliveries
    WHERE endpoint_id = :endpoint AND state = 'pending' AND next_attempt_at <= now()
      AND (lease_until IS NULL OR lease_until < now())
    ORDER BY next_attempt_at
    LIMIT 1 FOR UPDATE SKIP LOCKED
) AND endpoint.id = webhook_deliveries.endpoint_id AND endpoint.disabled_at IS NULL
  AND (SELECT count(*) FROM webhook_deliveries WHERE endpoint_id = :endpoint AND lease_until > now())
      < CASE WHEN endpoint.failing_since IS NULL THEN :per_endpoint ELSE :per_failing END
RETURNING webhook_deliveries.id, webhook_deliveries.attempt, attempt - tries_before AS planned_try, endpoint.id,
          webhook_deliveries.body, endpoint.url, endpoint.secret_encrypted, endpoint.failing_since IS NOT NULL
""").columns(id=Uuid, endpoint_id=Uuid, secret_encrypted=LargeBinary)


class DeliveryPendingError(DistildireError):
    """The delivery has not ended: it is tried again by itself."""


class EndpointDisabledError(DistildireError):
    """The endpoint is disabled: enable it before anything is sent to it again."""


@dataclass(frozen=True)
class ClaimedDelivery:
    """One try that is to be made now."""

    id: UUID
    attempt: int
    planned_try: int
    """Which try of the schedule this is, from 1: `attempt` without those before the delivery was sent anew."""
    endpoint_id: UUID
    body: str
    url: str
    secret_encrypted: bytes
    failing: bool
    """Whether the endpoint's last try failed."""

    @property
    def message_id(self) -> str:
        """The `webhook-id` header, the same for every try."""
        return f"msg_{self.id.hex}"


@dataclass(frozen=True)
class Try:
    """What came of a try, for the log."""

    started_at: datetime
    duration_ms: int
    status: int | None = None
    error: str | None = None
    response_excerpt: str | None = None


def claim_due(
    database: Database, *, lease: timedelta, per_endpoint: int, per_failing: int = 1
) -> ClaimedDelivery | None:
    """Take a delivery that is due, of the endpoint with the fewest tries under way; None where none is.

    At most `per_endpoint` tries of one endpoint run at a time, or `per_failing` where its last try failed.
    """
    limits = {"per_endpoint": per_endpoint, "per_failing": per_failing}
    passed: list[UUID] = []  # endpoints that had nothing free after all
    while True:
        with database.begin() as session:
            endpoint_id = session.scalar(_TURN, {**limits, "passed": passed})
            if endpoint_id is None:
                return None
            row = session.execute(_CLAIM, {**limits, "endpoint": endpoint_id, "lease": lease}).one_or_none()
        if row is not None:
            return ClaimedDelivery(*row)
        passed.append(endpoint_id)


def is_due(database: Database, *, per_endpoint: int, per_failing: int = 0) -> bool:
    """Whether `claim_due` would find an endpoint to claim for."""
    with database.begin() as session:
        limits = {"per_endpoint": per_endpoint, "per_failing": per_failing, "passed": []}
        return session.scalar(_TURN, limits) is not None


def record_try(session: Session, claimed: ClaimedDelivery, tried: Try, decision: Decision) -> None:
    """Log a try and do with its delivery, and with its endpoint, what was decided.

    What arrived counts as delivered, also where its endpoint was disabled while it was under way.

    Raises:
        LeaseLostError: another sender has tried since, or the endpoint was disabled; nothing was written.

    """
    arrived = isinstance(decision, Delivered)
    turned = claimed.failing == arrived  # only then is the endpoint's row written: jobs that end wait for its lock
    # Before the delivery: who disables locks in this order.
    endpoint = _lock_endpoint(session, claimed.endpoint_id) if turned or isinstance(decision, Disable) else None
    delivery = session.scalars(
        select(WebhookDelivery)
        .where(
            WebhookDelivery.id == claimed.id,
            WebhookDelivery.attempt == claimed.attempt,
            WebhookDelivery.state.in_(["pending", "failed"] if arrived else ["pending"]),
        )
        .with_for_update()
    ).one_or_none()
    if delivery is None:
        raise LeaseLostError
    delivery.lease_until = None
    delivery.next_attempt_at = decision.at if isinstance(decision, Retry) else None
    now = session.scalar(select(func.now()))
    if not isinstance(decision, Retry):
        delivery.state, delivery.finished_at = "delivered" if arrived else "failed", now
    if endpoint is not None and turned:
        endpoint.failing_since = None if arrived else now
    session.add(WebhookAttempt(delivery_id=claimed.id, attempt=claimed.attempt, **vars(tried)))
    session.flush()
    if isinstance(decision, Disable):
        disable_endpoint(session, claimed.endpoint_id, "The receiver answered 410 Gone.")


def resend(session: Session, tenant_id: UUID, delivery_id: UUID) -> WebhookDelivery | None:
    """Have a delivery that ended tried again, at once, and by the whole schedule; None: the tenant has no such one.

    Body and `webhook-id` stay as they are. The log of earlier tries is kept.

    Raises:
        DeliveryPendingError: it has not ended.
        EndpointDisabledError: its endpoint is disabled.

    """
    mine = select(WebhookDelivery).where(WebhookDelivery.id == delivery_id, WebhookDelivery.tenant_id == tenant_id)
    found = session.scalars(mine).one_or_none()
    if found is None:
        return None
    endpoint = session.get(WebhookEndpoint, found.endpoint_id, with_for_update={"read": True}, populate_existing=True)
    if endpoint is None:  # deleted since, and its deliveries with it
        return None
    delivery = session.scalars(mine.with_for_update().execution_options(populate_existing=True)).one()
    if delivery.state == "pending":
        raise DeliveryPendingError
    if endpoint.disabled_at is not None:
        raise EndpointDisabledError
    delivery.state, delivery.finished_at, delivery.tries_before = "pending", None, delivery.attempt
    delivery.next_attempt_at = session.scalar(select(func.now()))
    session.flush()
    return delivery


def disable_endpoint(session: Session, endpoint_id: UUID, reason: str) -> None:
    """Send nothing more to an endpoint; what waits for it is given up."""
    endpoint = _lock_endpoint(session, endpoint_id)
    if endpoint is not None and endpoint.disabled_at is None:
        endpoint.disabled_at, endpoint.disabled_reason = session.scalar(select(func.now())), reason
    session.execute(
        text(
            "UPDATE webhook_deliveries SET state = 'failed', finished_at = now(), next_attempt_at = NULL, "
            "lease_until = NULL WHERE endpoint_id = :endpoint AND state = 'pending'"
        ),
        {"endpoint": endpoint_id},
    )


def _lock_endpoint(session: Session, endpoint_id: UUID) -> WebhookEndpoint | None:
    return session.get(WebhookEndpoint, endpoint_id, with_for_update={"key_share": True}, populate_existing=True)
