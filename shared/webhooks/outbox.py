"""Writes webhooks: each in the transaction that makes what it tells of true."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from shared.database.tables import JobRow, WebhookDelivery, WebhookEndpoint
from shared.domain import ENDPOINT_DISABLED, ENDPOINT_TEST, JobResult
from shared.presenter import present_endpoint, present_job, timestamp


def write_events(session: Session, job: JobRow, result: JobResult | None) -> bool:
    """Write a delivery to each endpoint that wants to know how the job ended; return whether there is one."""
    event_type = f"job.{job.state}"
    wanted = [] if result is None else [_wants_prediction(result.prediction)]
    endpoints = _subscribers(session, job.tenant_id, event_type, *wanted)
    if not endpoints:
        return False
    body = _event(event_type, job.finished_at, present_job(job, result))
    _write(session, job.tenant_id, endpoints, event_type, body, job_id=job.id)
    return True


def write_endpoint_disabled(session: Session, endpoint_id: UUID) -> None:
    """Write a delivery to each other endpoint of the tenant that wants to know that this one was disabled."""
    endpoint = session.get_one(WebhookEndpoint, endpoint_id, populate_existing=True)
    others = _subscribers(session, endpoint.tenant_id, ENDPOINT_DISABLED)
    body = _event(ENDPOINT_DISABLED, endpoint.disabled_at, present_endpoint(endpoint))
    _write(session, endpoint.tenant_id, others, ENDPOINT_DISABLED, body)


def write_test(session: Session, endpoint: WebhookEndpoint) -> WebhookDelivery:
    """Write a delivery to an endpoint that tells of nothing, so that its receiver can be tried."""
    now = session.scalars(select(func.now())).one()
    body = _event(ENDPOINT_TEST, now, present_endpoint(endpoint))
    [delivery] = _write(session, endpoint.tenant_id, [endpoint.id], ENDPOINT_TEST, body)
    session.flush()
    session.refresh(delivery)
    return delivery


def _subscribers(session: Session, tenant_id: UUID, event_type: str, *wanted: ColumnElement[bool]) -> list[UUID]:
    """Return the tenant's enabled endpoints that want this event.

    There is no lock: a delivery to an endpoint that is disabled meanwhile is given up like all others to it.
    """
    query = select(WebhookEndpoint.id).where(
        WebhookEndpoint.tenant_id == tenant_id,
        WebhookEndpoint.disabled_at.is_(None),
        WebhookEndpoint.event_types.any_() == event_type,
        *wanted,
    )
    return list(session.scalars(query))


def _wants_prediction(prediction: str) -> ColumnElement[bool]:
    return or_(WebhookEndpoint.predictions.is_(None), WebhookEndpoint.predictions.any_() == prediction)


def _write(
    session: Session,
    tenant_id: UUID,
    endpoints: Iterable[UUID],
    event_type: str,
    body: str,
    *,
    job_id: UUID | None = None,
) -> list[WebhookDelivery]:
    deliveries = [
        WebhookDelivery(tenant_id=tenant_id, endpoint_id=endpoint, job_id=job_id, event_type=event_type, body=body)
        for endpoint in endpoints
    ]
    session.add_all(deliveries)
    return deliveries


def _event(event_type: str, moment: datetime | None, data: dict[str, Any]) -> str:
    """Return a message's body: these very characters are signed and sent, at each try the same."""
    event = {"type": event_type, "timestamp": timestamp(moment), "data": data}
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))
