"""Policies of the tiny model: its numbers mean nothing, so the thresholds are such that any will do."""

from __future__ import annotations

from pathlib import Path

from tests.support.policies import STRICT
from tests.support.tiny_model import NAME
from worker.model import find_card, load_model
from worker.model.verdicts.policy_files import policy_place, write_policy


def write_tiny_policies(folder: Path, *, weights_sha256: str | None = None) -> None:
    """Write two policies beside the tiny model's card: `doubtful`, to which all is INCONCLUSIVE, and `all-fake`.

    `weights_sha256`: what they say they were made for; by default the model's weights.
    """
    given = {} if weights_sha256 is None else {"weights_sha256": weights_sha256}
    write_tiny_policy(folder, name="doubtful", threshold=1.0, inconclusive_from=0.0, **given)
    write_tiny_policy(folder, name="all-fake", threshold=0.0, inconclusive_from=None, **given)


def write_tiny_policy(folder: Path, **changes: object) -> None:
    """Write a policy beside the tiny model's card: `strict` for its weights, but for the changes."""
    detector = load_model(NAME, "cpu", models_dir=folder)
    own = {"model": NAME, "weights_sha256": detector.weights_sha256, "precision": detector.precision}
    policy = STRICT.model_copy(update={**own, **changes})
    write_policy(policy, policy_place(policy.name, find_card(NAME, folder)))
