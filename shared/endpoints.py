"""Webhook endpoints: where a tenant wants to be told."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.crypto import Vault
from shared.signing import new_secret
from shared.tables import WebhookEndpoint


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
    """Return how many endpoints a tenant has, disabled ones included."""
    owned = select(func.count()).select_from(WebhookEndpoint).where(WebhookEndpoint.tenant_id == tenant_id)
    return session.scalar(owned) or 0
