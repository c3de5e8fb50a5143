"""Converts a job's result to its row and back. No other module knows how a verdict is stored in the database."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID

from shared.database.tables import ResultRow
from shared.domain import (
    AnalyzedImage,
    AppliedPolicy,
    Artifact,
    ConfidenceInterval,
    FeatureMean,
    JobResult,
    ModelIdentity,
    Region,
    Stability,
)


def to_row(job_id: UUID, attempt: int, result: JobResult) -> ResultRow:
    """Return the row of `result`, the verdict of this attempt."""
    return ResultRow(
        job_id=job_id,
        attempt=attempt,
        prediction=result.prediction,
        confidence=result.confidence,
        probability_fake=result.probability_fake,
        raw_probability_fake=result.raw_probability_fake,
        threshold=result.threshold,
        policy=asdict(result.policy) if result.policy else None,
        stability=asdict(result.stability) if result.stability else None,
        processing_time=result.processing_time,
        device_seconds=result.device_seconds,
        width=result.image.width,
        height=result.image.height,
        analyzed_region=asdict(result.image.region),
        media_type=result.image.media_type,
        file_format=result.image.file_format,
        jpeg_quality=result.image.jpeg_quality,
        model_name=result.model.name,
        weights_sha256=result.model.weights_sha256,
        demonstration=result.model.demonstration,
        device=result.model.device,
        precision=result.model.precision,
        timings=result.timings,
        caveats=list(result.caveats),
        feature_mean=result.feature_mean.values,
        feature_height=result.feature_mean.height,
        feature_width=result.feature_mean.width,
        artifacts={name: asdict(artifact) for name, artifact in result.artifacts.items()},
    )


def from_row(row: ResultRow) -> JobResult:
    """Return the result in `row`, also in one that an older version wrote."""
    # Before there were policies a result had one probability, the model's.
    raw = row.probability_fake if row.raw_probability_fake is None else row.raw_probability_fake
    return JobResult(
        prediction=row.prediction,
        confidence=row.confidence,
        probability_fake=row.probability_fake,
        raw_probability_fake=raw,
        threshold=row.threshold,
        policy=_policy(row.policy) if row.policy else None,
        stability=Stability(**row.stability) if row.stability else None,
        processing_time=row.processing_time,
        device_seconds=row.device_seconds,
        image=AnalyzedImage(
            width=row.width,
            height=row.height,
            region=Region(**row.analyzed_region),
            media_type=row.media_type,
            file_format=row.file_format,
            jpeg_quality=row.jpeg_quality,
        ),
        model=ModelIdentity(row.model_name, row.weights_sha256, row.demonstration, row.device, row.precision),
        timings=row.timings,
        caveats=tuple(row.caveats),
        feature_mean=FeatureMean(row.feature_mean, row.feature_height, row.feature_width),
        artifacts={name: Artifact(**stored) for name, stored in row.artifacts.items()},
    )


def _policy(stored: dict[str, Any]) -> AppliedPolicy:
    return AppliedPolicy(**stored | {"fpr_interval": ConfidenceInterval(**stored["fpr_interval"])})
