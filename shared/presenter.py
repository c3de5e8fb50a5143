"""The JSON of a job: one shape for the API's answers and the webhooks' bodies (docs/api.md)."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from shared.database.tables import JobRow, WebhookEndpoint, WorkerRow
from shared.domain import SOURCE, Artifact, JobResult

#: Every result contains this notice.
NOTICE = "A verdict is statistical evidence, not proof. Have a person look before you act on it."
DEMONSTRATION_NOTICE = (
    "DEMONSTRATION MODEL: trained on a few photographs to show that the system works. Do not moderate with it."
)


def timestamp(moment: datetime | None) -> str | None:
    """Return the time as RFC 3339, in UTC with milliseconds."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def present_job(job: JobRow, result: JobResult | None) -> dict[str, Any]:
    """Return the public document of `job`; `result` is there if it succeeded."""
    document: dict[str, Any] = {
        "id": str(job.id),
        "status": job.state,
        "stage": job.stage,
        "attempt": job.attempt,
        "created_at": timestamp(job.created_at),
        "started_at": timestamp(job.started_at),
        "finished_at": timestamp(job.finished_at),
        "deadline_at": timestamp(job.deadline_at),
        "replay_of": str(job.replay_of) if job.replay_of else None,
        "client_ref": job.client_ref,
        "declared": job.declared,
        "metadata": job.client_metadata,
        "links": _links(job, result),
        "artifacts": _artifacts(job, result),
        "result": present_result(result) if result else None,
        "error": _error(job),
    }
    return document


def present_result(result: JobResult) -> dict[str, Any]:
    """Return the verdict and what explains it, without the heatmap's numbers, which are sent only on request."""
    image = result.image
    return {
        "prediction": result.prediction,
        "confidence": result.confidence,
        "probability_fake": result.probability_fake,
        "raw_probability_fake": result.raw_probability_fake,
        "threshold": result.threshold,
        "policy": asdict(result.policy) if result.policy else None,
        "stability": asdict(result.stability) if result.stability else None,
        "processing_time": result.processing_time,
        "device_seconds": result.device_seconds,
        "dimensions": {"width": image.width, "height": image.height},
        "analyzed_region": asdict(image.region),
        "input": {
            "media_type": image.media_type,
            "format": image.file_format,
            "jpeg_quality_estimate": image.jpeg_quality,
        },
        "model": asdict(result.model),
        "timings": result.timings,
        "caveats": list(result.caveats),
        "notice": f"{DEMONSTRATION_NOTICE} {NOTICE}" if result.model.demonstration else NOTICE,
    }


def present_endpoint(endpoint: WebhookEndpoint) -> dict[str, Any]:
    """Return the public document of a webhook endpoint: without its secrets."""
    return {
        "id": str(endpoint.id),
        "url": endpoint.url,
        "description": endpoint.description,
        "event_types": endpoint.event_types,
        "predictions": endpoint.predictions,
        "signature": "hmac" if endpoint.public_key is None else "ed25519",
        "public_key": endpoint.public_key,
        "old_secret_until": timestamp(endpoint.old_secret_until),
        "created_at": timestamp(endpoint.created_at),
        "disabled_at": timestamp(endpoint.disabled_at),
        "disabled_reason": endpoint.disabled_reason,
        "failing_since": timestamp(endpoint.failing_since),
    }


def present_worker(worker: WorkerRow, silent_seconds: float) -> dict[str, Any]:
    """Return the operator's view of a worker."""
    return {
        "id": worker.id,
        "role": worker.role,
        "state": worker.state,
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "model": worker.model,
        "device": worker.device,
        "precision": worker.precision,
        "policies": worker.policies,
        "slots": worker.slots,
        "busy": worker.busy,
        "started_at": timestamp(worker.started_at),
        "heartbeat_at": timestamp(worker.heartbeat_at),
        "silent_seconds": max(0.0, round(silent_seconds, 1)),
    }


def _links(job: JobRow, result: JobResult | None) -> dict[str, str]:
    links = {"self": f"/v1/jobs/{job.id}"}
    if not job.state.terminal:
        links["cancel"] = f"/v1/jobs/{job.id}/cancel"
    if result:
        links["heatmap"] = f"/v1/jobs/{job.id}/heatmap"
    return links


def _artifacts(job: JobRow, result: JobResult | None) -> dict[str, Any]:
    source = Artifact(job.source_key, job.source_bytes, job.source_sha256, job.media_type)
    stored = {SOURCE: source, **(result.artifacts if result else {})}
    return {
        name: {
            "href": f"/v1/jobs/{job.id}/artifacts/{name}",
            "media_type": artifact.media_type,
            "bytes": artifact.bytes,
            "sha256": artifact.sha256,
        }
        for name, artifact in stored.items()
    }


def _error(job: JobRow) -> dict[str, Any] | None:
    if job.error_code is None:
        return None
    return {"code": job.error_code, "message": job.error_message, "retryable": job.error_retryable}
