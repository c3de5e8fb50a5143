"""Writes the webhooks about a job's end, in the transaction that ends the job."""

from __future__ import annotations

import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.database.tables import JobRow, WebhookDelivery, WebhookEndpoint
from shared.domain import JobResult
from shared.presenter import present_job, timestamp


def write_events(session: Session, job: JobRow, result: JobResult | None) -> bool:
    """Write a delivery to each endpoint that wants to know how the job ended; return whether there is one."""
    event_type = f"job.{job.state}"
    endpoints = session.scalars(
        select(WebhookEndpoint.id).where(
            WebhookEndpoint.tenant_id == job.tenant_id,
            WebhookEndpoint.disabled_at.is_(None),
            WebhookEndpoint.event_types.any_() == event_type,
        )
    ).all()  # no lock: a delivery to an endpoint that is disabled meanwhile is given up like all others to it
    if not endpoints:
        return False
    body = _event(event_type, job, result)
    session.add_all(
        WebhookDelivery(
            tenant_id=job.tenant_id, endpoint_id=endpoint_id, job_id=job.id, event_type=event_type, body=body
        )
        for endpoint_id in endpoints
    )
    return True


def _event(event_type: str, job: JobRow, result: JobResult | None) -> str:
    """Return a message's body: these very characters are signed and sent, at each try the same."""
    event = {
        "type": event_type,
        "timestamp": timestamp(job.finished_at),
        "data": present_job(job, result),
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))
