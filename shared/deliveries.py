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
from shared.errors import LeaseLostError
from shared.tables import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from shared.webhook_schedule import Decision, Delivered, Disable, Retry

# Claims take turns, or two at once could both see the last free place of an endpoint.
_TURN = text("SELECT pg_advisory_xact_lock(1147498341)")

# At most so many tries of one endpoint at a time: a dead receiver must not hold every sender.
_CLAIM = text("""
WITH busy AS (
    SELECT endpoint_id FROM webhook_deliveries WHERE lease_until > now()
    GROUP BY endpoint_id HAVING count(*) >= :per_endpoint
), due AS (
    SELECT d.id FROM webhook_deliveries d
    JOIN webhook_endpoints e ON e.id = d.endpoint_id AND e.disabled_at IS NULL
    WHERE d.state = 'pending' AND d.next_attempt_at <= now() AND (d.lease_until IS NULL OR d.lease_until < now())
      AND d.endpoint_id NOT IN (SELECT endpoint_id FROM busy)
    ORDER BY d.next_attempt_at
    LIMIT 1 FOR UPDATE OF d SKIP LOCKED
)
UPDATE webhook_deliveries SET attempt = attempt + 1, lease_until = now() + :lease
FROM due, webhook_endpoints e
WHERE webhook_deliveries.id = due.id AND e.id = webhook_deliveries.endpoint_id
RETURNING webhook_deliveries.id, webhook_deliveries.attempt, webhook_deliveries.endpoint_id,
          webhook_deliveries.body, e.url, e.secret_encrypted
""").columns(id=Uuid, endpoint_id=Uuid, secret_encrypted=LargeBinary)


@dataclass(frozen=True)
class ClaimedDelivery:
    """One try that is to be made now."""

    id: UUID
    attempt: int
    endpoint_id: UUID
    body: str
    url: str
    secret_encrypted: bytes

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


def claim_due(database: Database, *, lease: timedelta, per_endpoint: int) -> ClaimedDelivery | None:
    """Take the delivery that has been due for longest; None where none is."""
    with database.begin() as session:
        session.execute(_TURN)
        row = session.execute(_CLAIM, {"lease": lease, "per_endpoint": per_endpoint}).one_or_none()
    return ClaimedDelivery(*row) if row else None


def record_try(session: Session, claimed: ClaimedDelivery, tried: Try, decision: Decision) -> None:
    """Log a try and do with its delivery, and with its endpoint, what was decided.

    What arrived counts as delivered, also where its endpoint was disabled while it was under way.

    Raises:
        LeaseLostError: another sender has tried since, or the endpoint was disabled; nothing was written.

    """
    if isinstance(decision, Disable):
        _lock_endpoint(session, claimed.endpoint_id)  # before the delivery: who disables locks in this order
    delivery = session.scalars(
        select(WebhookDelivery)
        .where(
            WebhookDelivery.id == claimed.id,
            WebhookDelivery.attempt == claimed.attempt,
            WebhookDelivery.state.in_(["pending", "failed"] if isinstance(decision, Delivered) else ["pending"]),
        )
        .with_for_update()
    ).one_or_none()
    if delivery is None:
        raise LeaseLostError
    delivery.lease_until = None
    delivery.next_attempt_at = decision.at if isinstance(decision, Retry) else None
    if not isinstance(decision, Retry):
        delivery.state = "delivered" if isinstance(decision, Delivered) else "failed"
        delivery.finished_at = session.scalar(select(func.now()))
    session.add(WebhookAttempt(delivery_id=claimed.id, attempt=claimed.attempt, **vars(tried)))
    session.flush()
    if isinstance(decision, Disable):
        disable_endpoint(session, claimed.endpoint_id, "The receiver answered 410 Gone.")


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
