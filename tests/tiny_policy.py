"""Policies of the tiny model: its numbers mean nothing, so the thresholds are such that any will do."""

from __future__ import annotations

from pathlib import Path

from tests.policies import STRICT
from tests.tiny_model import NAME
from worker.model import find_card, load_model
from worker.model.policy import policy_place, write_policy


def write_tiny_policies(folder: Path, *, weights_sha256: str | None = None) -> None:
    """Write two policies beside the tiny model's card: `doubtful`, to which all is INCONCLUSIVE, and `all-fake`.

    `weights_sha256`: what they say they were made for; by default the model's weights.
    """
    detector = load_model(NAME, "cpu", models_dir=folder)
    changes = {
        "model": NAME,
        "weights_sha256": weights_sha256 or detector.weights_sha256,
        "precision": detector.precision,
    }
    doubtful = STRICT.model_copy(update={**changes, "name": "doubtful", "threshold": 1.0, "inconclusive_from": 0.0})
    all_fake = doubtful.model_copy(update={"name": "all-fake", "threshold": 0.0, "inconclusive_from": None})
    for policy in (doubtful, all_fake):
        write_policy(policy, policy_place(policy.name, find_card(NAME, folder)))
