"""Webhook endpoints: where a tenant wants to be told."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from shared.crypto import Vault
from shared.signing import new_secret
from shared.tables import WebhookEndpoint

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
    """Send to an endpoint again what is written from now on; None where the tenant has none of this id."""
    endpoint = session.scalars(
        select(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.tenant_id == tenant_id)
        .with_for_update(key_share=True)
    ).one_or_none()
    if endpoint is not None and endpoint.disabled_at is not None:
        endpoint.disabled_at = endpoint.disabled_reason = endpoint.failing_since = None
    return endpoint


def list_endpoints(session: Session, tenant_id: UUID) -> Sequence[WebhookEndpoint]:
    """Return a tenant's endpoints, oldest first."""
    return session.scalars(
        select(WebhookEndpoint)
        .where(WebhookEndpoint.tenant_id == tenant_id)
        .order_by(WebhookEndpoint.created_at, WebhookEndpoint.id)
    ).all()


def find_endpoint(session: Session, tenant_id: UUID, endpoint_id: UUID) -> WebhookEndpoint | None:
    """Return a tenant's endpoint; None where the tenant has none of this id."""
    return session.scalars(
        select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.tenant_id == tenant_id)
    ).one_or_none()


def count_endpoints(session: Session, tenant_id: UUID) -> int:
    """Return how many endpoints a tenant has, disabled ones included; no other makes one until the caller commits."""
    session.execute(_TURN, {"tenant": str(tenant_id)})
    owned = select(func.count()).select_from(WebhookEndpoint).where(WebhookEndpoint.tenant_id == tenant_id)
    return session.scalar(owned) or 0
