"""Webhook endpoints: the URLs at which tenants receive webhooks.

A timestamp in an endpoint's row disables or deletes it at once, however many deliveries wait for it. From then on
nothing is sent to it, and jobs that end later write no deliveries for it. The deliveries that exist already are given
up or deleted a few at a time (`give_up`, `purge`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, text, update
from sqlalchemy.orm import Session

from shared.crypto import Vault
from shared.database.engine import Database
from shared.database.statements import statement
from shared.database.tables import WebhookEndpoint
from shared.webhooks.retry_schedule import MOST_AGE
from shared.webhooks.signatures import new_key_pair, new_secret

_GIVE_UP_DISABLED = statement("shared.webhooks", "give_up_disabled")
_GIVE_UP_OLD = statement("shared.webhooks", "give_up_old")
_PURGE = statement("shared.webhooks", "purge")
# No transaction that began before the deletion, and may still write for the endpoint, runs for so long.
_FORGET = text("""
DELETE FROM webhook_endpoints AS endpoint
WHERE deleted_at < now() - interval '5 minutes'
  AND NOT EXISTS (SELECT FROM webhook_deliveries WHERE endpoint_id = endpoint.id)
""")

# A lock for each tenant: only one request at a time may count its endpoints and add one.
_TURN = text("SELECT pg_advisory_xact_lock(1147495781, hashtext(:tenant))")


def create_endpoint(
    session: Session,
    vault: Vault,
    tenant_id: UUID,
    url: str,
    event_types: Sequence[str],
    *,
    predictions: Sequence[str] | None = None,
    description: str | None = None,
    ed25519: bool = False,
) -> tuple[WebhookEndpoint, str | None]:
    """Write an endpoint; return it with its secret, which is never shown again.

    With `ed25519` it has a key pair instead: its document shows the public key, and nobody sees the private one.
    """
    secret, public_key = new_key_pair() if ed25519 else (new_secret(), None)
    endpoint = WebhookEndpoint(
        tenant_id=tenant_id,
        url=url,
        event_types=list(event_types),
        predictions=None if predictions is None else list(predictions),
        description=description,
        secret_encrypted=vault.encrypt(secret),
        public_key=public_key,
    )
    session.add(endpoint)
    session.flush()
    session.refresh(endpoint)
    return endpoint, None if ed25519 else secret


def change_endpoint(
    session: Session, tenant_id: UUID, endpoint_id: UUID, changes: Mapping[str, Any]
) -> WebhookEndpoint | None:
    """Set these columns of an endpoint; None: the tenant has no such endpoint.

    Deliveries that wait go to its new URL.
    """
    endpoint = _locked(session, tenant_id, endpoint_id)
    if endpoint is not None:
        for column, value in changes.items():
            setattr(endpoint, column, value)
        session.flush()
    return endpoint


def rotate_secret(
    session: Session, vault: Vault, tenant_id: UUID, endpoint_id: UUID, *, overlap: timedelta
) -> tuple[WebhookEndpoint, str | None] | None:
    """Give an endpoint a new secret, of the kind that it has; the old one also signs until `overlap` is over.

    Returns the endpoint with its secret, as `create_endpoint` does; None: the tenant has no such endpoint.
    """
    endpoint = _locked(session, tenant_id, endpoint_id)
    if endpoint is None:
        return None
    endpoint.old_secret_encrypted = endpoint.secret_encrypted
    endpoint.old_secret_until = session.scalars(select(func.now() + overlap)).one()
    secret, endpoint.public_key = (new_secret(), None) if endpoint.public_key is None else new_key_pair()
    endpoint.secret_encrypted = vault.encrypt(secret)
    session.flush()
    return endpoint, None if endpoint.public_key else secret


def enable_endpoint(session: Session, tenant_id: UUID, endpoint_id: UUID) -> WebhookEndpoint | None:
    """Enable an endpoint: new deliveries are sent to it again, and those that were not given up yet.

    None: the tenant has no such endpoint.
    """
    found = _locked(session, tenant_id, endpoint_id)
    if found is not None and found.disabled_at is not None:
        found.disabled_at = found.disabled_reason = found.failing_since = None
    return found


def disable_endpoint(session: Session, endpoint_id: UUID, reason: str) -> bool:
    """Disable an endpoint; its pending deliveries are given up soon. Return whether it was enabled until now."""
    enabled = update(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.disabled_at.is_(None))
    done = session.scalars(enabled.values(disabled_at=func.now(), disabled_reason=reason).returning(WebhookEndpoint.id))
    return done.one_or_none() is not None


def delete_endpoint(session: Session, tenant_id: UUID, endpoint_id: UUID) -> bool:
    """Hide an endpoint; `purge` deletes its deliveries and then its row. False: the tenant has no such endpoint."""
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
    """Return a tenant's endpoint; None if the tenant has no endpoint with this id."""
    return session.scalars(_of(tenant_id).where(WebhookEndpoint.id == endpoint_id)).one_or_none()


def count_endpoints(session: Session, tenant_id: UUID) -> int:
    """Return how many endpoints a tenant has, also disabled ones. Until the commit, no other request can add one."""
    session.execute(_TURN, {"tenant": str(tenant_id)})
    return session.scalar(select(func.count()).select_from(_of(tenant_id).subquery())) or 0


def give_up(database: Database, *, most: int = 1_000) -> int:
    """Give up deliveries to disabled endpoints and deliveries that are too old, `most` of each; return how many."""
    with database.begin() as session:
        disabled = session.execute(_GIVE_UP_DISABLED, {"most": most}).all()
    with database.begin() as session:
        return len(disabled) + len(session.execute(_GIVE_UP_OLD, {"age": MOST_AGE, "most": most}).all())


def purge(database: Database, *, most: int = 1_000) -> int:
    """Delete up to `most` deliveries of deleted endpoints, then the endpoints; return how many deliveries."""
    with database.begin() as session:
        gone = len(session.execute(_PURGE, {"most": most}).all())
        if not gone:
            session.execute(_FORGET)
    return gone


def _locked(session: Session, tenant_id: UUID, endpoint_id: UUID) -> WebhookEndpoint | None:
    """Return a tenant's endpoint, locked against other changes but not against deliveries that name it."""
    mine = _of(tenant_id).where(WebhookEndpoint.id == endpoint_id)
    return session.scalars(mine.with_for_update(key_share=True)).one_or_none()


def _of(tenant_id: UUID) -> Select[WebhookEndpoint]:
    return select(WebhookEndpoint).where(WebhookEndpoint.tenant_id == tenant_id, WebhookEndpoint.deleted_at.is_(None))
