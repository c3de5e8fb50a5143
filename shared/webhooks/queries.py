"""Reads webhook deliveries and their tries, for display to their tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Uuid, select, text
from sqlalchemy.orm import Session

from shared.database.pagination import Cursor, Page, by_ids, cut_page, open_places, page_query
from shared.database.tables import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from shared.domain import DeliveryState

_PENDING_DELIVERIES = text(
    "SELECT * FROM pending_deliveries(:tenant, CAST(:endpoint AS uuid), :before, :before_id, :most)"
).columns(id=Uuid)
_OF_ENDPOINT = text("SELECT * FROM deliveries_of(:tenant, :endpoint, :before, :before_id, :most)").columns(id=Uuid)


@dataclass(frozen=True)
class DeliveryRow:
    """A webhook delivery with its tries, oldest first."""

    delivery: WebhookDelivery
    attempts: Sequence[WebhookAttempt]


def find_delivery(session: Session, tenant_id: UUID, delivery_id: UUID) -> DeliveryRow | None:
    """Return a tenant's webhook delivery; None if the tenant has no delivery with this id."""
    query = select(WebhookDelivery).where(WebhookDelivery.tenant_id == tenant_id, WebhookDelivery.id == delivery_id)
    shown = [each for each in session.scalars(query) if each.endpoint_id not in _deleted(session, tenant_id)]
    found = _with_attempts(session, shown)
    return found[0] if found else None


def list_deliveries(
    session: Session,
    tenant_id: UUID,
    *,
    only: Mapping[str, UUID | str],
    after: Cursor | None,
    limit: int,
) -> Page[DeliveryRow]:
    """Return a page of a tenant's webhook deliveries, newest first; `only` maps columns to the values to select."""
    state, endpoint_id = only.get("state"), only.get("endpoint_id")
    by_places = (
        _PENDING_DELIVERIES if state == DeliveryState.PENDING else _OF_ENDPOINT if endpoint_id and not state else None
    )
    deleted = _deleted(session, tenant_id)
    if by_places is None or "job_id" in only:
        query = select(WebhookDelivery).where(WebhookDelivery.tenant_id == tenant_id).filter_by(**only)
        query = query.where(WebhookDelivery.endpoint_id.not_in(deleted)) if deleted else query
        rows = _with_attempts(session, session.scalars(page_query(query, WebhookDelivery, after, limit)).all())
        return cut_page(rows, limit, lambda row: Cursor(row.delivery.created_at, row.delivery.id))
    open_rows = open_places(session, by_places, tenant_id, after, limit, endpoint_id)
    places = cut_page(open_rows, limit, lambda place: place)
    each_of = by_ids(WebhookDelivery, [place.id for place in places.rows])
    found = {each.id: each for each in session.scalars(select(each_of)) if each.endpoint_id not in deleted}
    shown = [found[place.id] for place in places.rows if place.id in found]
    return Page(_with_attempts(session, [each for each in shown if state in (None, each.state)]), places.next)


def _deleted(session: Session, tenant_id: UUID) -> Sequence[UUID]:
    """Return the deleted endpoints of a tenant: their deliveries are no longer shown."""
    gone = WebhookEndpoint.deleted_at.is_not(None)
    return session.scalars(select(WebhookEndpoint.id).where(WebhookEndpoint.tenant_id == tenant_id, gone)).all()


def _with_attempts(session: Session, deliveries: Sequence[WebhookDelivery]) -> list[DeliveryRow]:
    attempts: dict[UUID, list[WebhookAttempt]] = {delivery.id: [] for delivery in deliveries}
    query = select(WebhookAttempt).where(WebhookAttempt.delivery_id.in_(attempts)).order_by(WebhookAttempt.attempt)
    for attempt in session.scalars(query):
        attempts[attempt.delivery_id].append(attempt)
    return [DeliveryRow(delivery, attempts[delivery.id]) for delivery in deliveries]
