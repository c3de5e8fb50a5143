"""Webhook endpoints: where a tenant wants to be told.

An endpoint is disabled or deleted by a flag in its row, whatever waits for it. From then on nothing is sent to it, and
nothing written for it by a job that ends later; what is there already follows a little at a time (`give_up`, `purge`).
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Select, func, select, text, update
from sqlalchemy.orm import Session

from shared.crypto import Vault
from shared.database.engine import Database
from shared.database.statements import statement
from shared.database.tables import WebhookEndpoint
from shared.webhooks.retry_schedule import MOST_AGE
from shared.webhooks.signatures import new_secret

_GIVE_UP_DISABLED = statement("shared.webhooks", "give_up_disabled")
_GIVE_UP_OLD = statement("shared.webhooks", "give_up_old")
_PURGE = statement("shared.webhooks", "purge")
# Nobody who may still write for it has begun before it was deleted: no transaction of ours takes so long.
_FORGET = text("""
DELETE FROM webhook_endpoints AS endpoint
WHERE deleted_at < now() - interval '5 minutes'
  AND NOT EXISTS (SELECT FROM webhook_deliveries WHERE endpoint_id = endpoint.id)
""")

# A tenant's own: who counts its endpoints and adds one must not meet another who does.
_TURN = text("SELECT pg_advisory_xact_lock(1147495781, hashtext(:tenant))")


def create_endpoint(
    session: Session, vault: Vault, tenant_id: UUID, url: str, event_types: Sequence[str]
) -> tuple[WebhookEndpoint, str]:
    """Write an endpoint; return it with its secret, which is never shown again."""
    secret = new_secret()
    endpoint = WebhookEndpoint(
        tenant_id=tenant_id, url=url, event_types=list(event_types), secret_encrypted=vault.encrypt(secret)
    )
    session.add(endpoint)
    session.flush()
    session.refresh(endpoint)
    return endpoint, secret


def enable_endpoint(session: Session, tenant_id: UUID, endpoint_id: UUID) -> WebhookEndpoint | None:
    """Send to an endpoint again what is written from now on, and what was not given up yet; None where it is not there.

    It is then no tenant's, or not this one's.
    """
    endpoint = session.scalars(_of(tenant_id).where(WebhookEndpoint.id == endpoint_id).with_for_update(key_share=True))
    found = endpoint.one_or_none()
    if found is not None and found.disabled_at is not None:
        found.disabled_at = found.disabled_reason = found.failing_since = None
    return found


def disable_endpoint(session: Session, endpoint_id: UUID, reason: str) -> bool:
    """Send nothing more to an endpoint; what waits for it is given up soon. Return whether it was enabled until now."""
    enabled = update(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.disabled_at.is_(None))
    done = session.scalars(enabled.values(disabled_at=func.now(), disabled_reason=reason).returning(WebhookEndpoint.id))
    return done.one_or_none() is not None


def delete_endpoint(session: Session, tenant_id: UUID, endpoint_id: UUID) -> bool:
    """Have an endpoint be gone for all who look; its deliveries follow, and then its row. False: it is not there."""
    now = func.now()
    done = session.scalars(
        update(WebhookEndpoint)
        .where(
            WebhookEndpoint.id == endpoint_id,
            WebhookEndpoint.tenant_id == tenant_id,
            WebhookEndpoint.deleted_at.is_(None),
        )
        .values(deleted_at=now, disabled_at=func.coalesce(WebhookEndpoint.disabled_at, now))
        .returning(WebhookEndpoint.id)
    )
    return done.one_or_none() is not None


def list_endpoints(session: Session, tenant_id: UUID) -> Sequence[WebhookEndpoint]:
    """Return a tenant's endpoints, oldest first."""
    return session.scalars(_of(tenant_id).order_by(WebhookEndpoint.created_at, WebhookEndpoint.id)).all()


def find_endpoint(session: Session, tenant_id: UUID, endpoint_id: UUID) -> WebhookEndpoint | None:
    """Return a tenant's endpoint; None where the tenant has none of this id."""
    return session.scalars(_of(tenant_id).where(WebhookEndpoint.id == endpoint_id)).one_or_none()


def count_endpoints(session: Session, tenant_id: UUID) -> int:
    """Return how many endpoints a tenant has, disabled ones included; no other makes one until the caller commits."""
    session.execute(_TURN, {"tenant": str(tenant_id)})
    return session.scalar(select(func.count()).select_from(_of(tenant_id).subquery())) or 0


def give_up(database: Database, *, most: int = 1_000) -> int:
    """Give up deliveries to disabled endpoints, and those that are too old, `most` of each; return how many."""
    with database.begin() as session:
        disabled = session.execute(_GIVE_UP_DISABLED, {"most": most}).all()
    with database.begin() as session:
        return len(disabled) + len(session.execute(_GIVE_UP_OLD, {"age": MOST_AGE, "most": most}).all())


def purge(database: Database, *, most: int = 1_000) -> int:
    """Delete deliveries of deleted endpoints, and then these; return how many deliveries, `most` at most."""
    with database.begin() as session:
        gone = len(session.execute(_PURGE, {"most": most}).all())
        if not gone:
            session.execute(_FORGET)
    return gone


def _of(tenant_id: UUID) -> Select[WebhookEndpoint]:
    return select(WebhookEndpoint).where(WebhookEndpoint.tenant_id == tenant_id, WebhookEndpoint.deleted_at.is_(None))
