"""An example of each document that an integrator reads first. The OpenAPI document shows them.

The numbers of the verdict are invented. A test checks each example against its model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.problems.table import IMAGE_TOO_LARGE
from api.v1.schemas.base import Document, ProblemDocument
from api.v1.schemas.jobs import Accepted, Job
from api.v1.schemas.keys import CreatedKey
from api.v1.schemas.webhooks import CreatedEndpoint

_JOB = "0198c2f4-7d1e-7c3a-9a55-3f0e6c1b2d44"
_CREATED = "2026-01-31T09:30:00.120000Z"
_LINKS = {"self": f"/v1/jobs/{_JOB}", "cancel": f"/v1/jobs/{_JOB}/cancel"}


def _artifact(name: str, media_type: str, size: int, digest: str) -> dict[str, Any]:
    return {"href": f"/v1/jobs/{_JOB}/artifacts/{name}", "media_type": media_type, "bytes": size, "sha256": digest * 8}


EXAMPLES: Mapping[type[Document], Mapping[str, Any]] = {
    Accepted: {
        "id": _JOB,
        "status": "queued",
        "created_at": _CREATED,
        "links": _LINKS,
    },
    Job: {
        "id": _JOB,
        "status": "succeeded",
        "stage": None,
        "attempt": 1,
        "created_at": _CREATED,
        "started_at": "2026-01-31T09:30:00.141000Z",
        "finished_at": "2026-01-31T09:30:00.266000Z",
        "deadline_at": "2026-02-01T09:30:00.120000Z",
        "replay_of": None,
        "client_ref": "upload-4711",
        "declared": "real",
        "metadata": {"upload": 4711},
        "links": _LINKS | {"heatmap": f"/v1/jobs/{_JOB}/heatmap"},
        "artifacts": {
            "source": _artifact("source", "image/jpeg", 48_213, "1f0a9c3e"),
            "dire_map": _artifact("dire_map", "image/png", 11_904, "7be25d10"),
            "heatmap": _artifact("heatmap", "image/png", 20_377, "c4d81e92"),
            "overlay": _artifact("overlay", "image/png", 402_118, "05f3a6b7"),
        },
        "result": {
            "prediction": "FAKE",
            "confidence": 0.91,
            "probability_fake": 0.91,
            "raw_probability_fake": 0.996,
            "threshold": 0.83,
            "policy": {
                "name": "strict",
                "threshold": 0.83,
                "inconclusive_from": 0.31,
                "temperature": 2.0,
                "bias": -0.45,
                "measured_fpr": 0.002,
                "fpr_interval": {"low": 0.00005, "high": 0.0111, "confidence": 0.95},
                "photographs": 500,
            },
            "stability": {"flip_rate": 0.0, "probability_min": 0.87, "probability_max": 0.93, "passes": 5},
            "processing_time": 0.125,
            "device_seconds": 0.031,
            "dimensions": {"width": 600, "height": 400},
            "analyzed_region": {"x": 100, "y": 0, "width": 400, "height": 400},
            "input": {"media_type": "image/jpeg", "format": "JPEG", "jpeg_quality_estimate": 85},
            "model": {
                "name": "DISTILDIRE-DEMO",
                "weights_sha256": "9ac0b7e4" * 8,
                "demonstration": True,
                "device": "cpu",
                "precision": "fp32",
            },
            "timings": {
                "fetching": 0.004,
                "decoding": 0.02,
                "diffusing": 0.05,
                "classifying": 0.011,
                "rendering": 0.04,
            },
            "caveats": [],
            "notice": "A verdict is statistical evidence, not proof.",
        },
        "error": None,
    },
    CreatedEndpoint: {
        "id": "0198c2f5-11c0-7b1f-8d6e-5a2b9c0d7e13",
        "url": "https://platform.example/hooks/images",
        "description": "moderation queue",
        "event_types": ["job.succeeded", "job.failed"],
        "predictions": ["FAKE", "INCONCLUSIVE"],
        "signature": "hmac",
        "public_key": None,
        "old_secret_until": None,
        "created_at": _CREATED,
        "disabled_at": None,
        "disabled_reason": None,
        "failing_since": None,
        "secret": "whsec_…",
    },
    CreatedKey: {
        "id": "0198c2f6-0b7e-7f0a-a2c4-3d1e5f60718a",
        "name": "dashboard",
        "scopes": ["read"],
        "prefix": "dd_7Qm2Xb",
        "created_at": _CREATED,
        "expires_at": "2027-06-30T00:00:00.000Z",
        "last_used_at": None,
        "key": "dd_…",
    },
    ProblemDocument: {
        "type": IMAGE_TOO_LARGE.type,
        "title": IMAGE_TOO_LARGE.title,
        "status": IMAGE_TOO_LARGE.status,
        "detail": "The image has 90,000,000 pixels; 40,000,000 are allowed.",
        "code": IMAGE_TOO_LARGE.code,
        "remedy": IMAGE_TOO_LARGE.remedy,
        "request_id": "6c8e1f2a9b7d4e05",
    },
}
