"""A policy to judge by in tests; its numbers mean nothing."""

from __future__ import annotations

from datetime import UTC, datetime

from worker.model.verdicts.policy import Evidence, Policy

STRICT = Policy(
    name="strict",
    model="TEST-MODEL",
    weights_sha256="ab" * 32,
    precision="fp32",
    made_at=datetime(2026, 11, 22, 8, 0, tzinfo=UTC),
    threshold=0.8,
    temperature=2.0,
    bias=-0.5,
    inconclusive_from=0.3,
    evidence=Evidence(
        rule="false_positive_rate",
        target_fpr=0.01,
        measured_fpr=0.004,
        fpr_interval=(0.001, 0.012),
        fpr_upper_bound=0.0099,
        confidence=0.95,
        missed_fakes=0.25,
        reals=310,
        real_groups=300,
        fakes=40,
        fake_groups=40,
        data_sha256="1" * 64,
        media_types=("image/jpeg", "image/png"),
    ),
)
