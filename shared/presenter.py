"""The JSON of a job, one shape for the API's answers and the webhooks' bodies (docs/api.md)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from shared.database.tables import Job, Result, Worker
from shared.domain import SOURCE, JobState

#: Said in every result.
NOTICE = "A verdict is statistical evidence, not proof. Have a person look before you act on it."
DEMONSTRATION_NOTICE = (
    "DEMONSTRATION MODEL: trained on a few photographs to show that the system works. Do not moderate with it."
)


def timestamp(moment: datetime | None) -> str | None:
    """Return RFC 3339 in UTC with milliseconds."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def present_job(job: Job, result: Result | None) -> dict[str, Any]:
    """Return the public document of `job`; `result` is its row where the job succeeded."""
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
        "metadata": job.client_metadata,
        "links": _links(job, result),
        "artifacts": _artifacts(job, result),
        "result": present_result(result) if result else None,
        "error": _error(job),
    }
    return document


def present_result(result: Result) -> dict[str, Any]:
    """Return the verdict and what explains it; the numbers of the heatmap are sent only when asked for."""
    return {
        "prediction": result.prediction,
        "confidence": result.confidence,
        "probability_fake": result.probability_fake,
        "raw_probability_fake": _raw_probability(result),
        "threshold": result.threshold,
        "policy": result.policy,
        "stability": result.stability,
        "processing_time": result.processing_time,
        "dimensions": {"width": result.width, "height": result.height},
        "analyzed_region": result.analyzed_region,
        "input": {
            "media_type": result.media_type,
            "format": result.file_format,
            "jpeg_quality_estimate": result.jpeg_quality,
        },
        "model": {
            "name": result.model_name,
            "weights_sha256": result.weights_sha256,
            "demonstration": result.demonstration,
            "device": result.device,
            "precision": result.precision,
        },
        "timings": result.timings,
        "caveats": result.caveats,
        "notice": f"{DEMONSTRATION_NOTICE} {NOTICE}" if result.demonstration else NOTICE,
    }


def present_worker(worker: Worker, silent_seconds: float) -> dict[str, Any]:
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


def _raw_probability(result: Result) -> float:
    """Results from before there were policies have one probability, which is the model's."""
    return result.probability_fake if result.raw_probability_fake is None else result.raw_probability_fake


def _links(job: Job, result: Result | None) -> dict[str, str]:
    links = {"self": f"/v1/jobs/{job.id}"}
    if not JobState(job.state).terminal:
        links["cancel"] = f"/v1/jobs/{job.id}/cancel"
    if result:
        links["heatmap"] = f"/v1/jobs/{job.id}/heatmap"
    return links


def _artifacts(job: Job, result: Result | None) -> dict[str, Any]:
    source = {"bytes": job.source_bytes, "sha256": job.source_sha256, "media_type": job.media_type}
    stored = {SOURCE: source, **(result.artifacts if result else {})}
    return {
        name: {
            "href": f"/v1/jobs/{job.id}/artifacts/{name}",
            **{field: about[field] for field in ("media_type", "bytes", "sha256")},
        }
        for name, about in stored.items()
    }


def _error(job: Job) -> dict[str, Any] | None:
    if job.error_code is None:
        return None
    return {"code": job.error_code, "message": job.error_message, "retryable": job.error_retryable}
