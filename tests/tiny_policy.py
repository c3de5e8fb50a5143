"""Policies of the tiny model: its numbers mean nothing, so the thresholds are such that any will do."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tests.tiny_model import NAME
from worker.model import find_card, load_model
from worker.model.policy import Evidence, Policy, policy_place, write_policy

EVIDENCE = Evidence(
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
)


def write_tiny_policies(folder: Path, *, weights_sha256: str | None = None) -> None:
    """Write two policies beside the tiny model's card: `doubtful`, to which all is INCONCLUSIVE, and `all-fake`.

    `weights_sha256`: what they say they were made for; by default the model's weights.
    """
    detector = load_model(NAME, "cpu", models_dir=folder)
    doubtful = Policy(
        name="doubtful",
        model=NAME,
        weights_sha256=weights_sha256 or detector.weights_sha256,
        precision=detector.precision,
        made_at=datetime(2026, 11, 22, 8, 0, tzinfo=UTC),
        threshold=1.0,
        temperature=2.0,
        bias=-0.5,
        inconclusive_from=0.0,
        evidence=EVIDENCE,
    )
    all_fake = doubtful.model_copy(update={"name": "all-fake", "threshold": 0.0, "inconclusive_from": None})
    for policy in (doubtful, all_fake):
        write_policy(policy, policy_place(policy.name, find_card(NAME, folder)))
