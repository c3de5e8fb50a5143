"""The images of an evaluation that the model or the policy knows already. They flatter what is measured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from worker.datasets.contamination import Contamination, policy_contamination, training_contamination
from worker.datasets.labelled_image import LabelledImage
from worker.model.detector import Detector
from worker.model.verdicts.policy import Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownImages:
    """Which images took part in the model's training, and which the policy was calibrated on; None if not known."""

    model: Contamination | None
    policy: Sequence[bool] | None

    def took_part_in(self, at: int) -> str:
        """Return what the image of this number took part in, such as "training policy"; empty if in nothing."""
        parts = []
        if self.model is None:
            parts.append("unknown")
        elif self.model.trained_on[at] or self.model.chosen_by[at]:
            parts.append("training" if self.model.trained_on[at] else "validation")
        if self.policy is not None and self.policy[at]:
            parts.append("policy")
        return " ".join(parts)


def find_known_images(
    detector: Detector, policy: Policy | None, calibrated_on: frozenset[str] | None, images: Sequence[LabelledImage]
) -> KnownImages:
    """Look for the images by their digests, and log a warning if the model or the policy knows some.

    Args:
        detector: the model.
        policy: the policy that chooses the threshold, if any.
        calibrated_on: the images that the policy was made of, as `images_of` returns them; None if not known.
        images: the images of the evaluation.
    """
    trained = training_contamination(detector.card, detector.card_path, images) if detector.card_path else None
    if trained and trained.training:
        _warn(f"{trained.training} of {len(images)} images were used to train {detector.card.name}")
    calibrated = policy_contamination(policy, calibrated_on, images) if policy else None
    if policy and calibrated and any(calibrated):
        _warn(f"The policy {policy.name} was made of {sum(calibrated)} of {len(images)} images")
    return KnownImages(trained, calibrated)


def _warn(known: str) -> None:
    log.warning("%s: the figures here are better than on others. Name another split or other images.", known)
