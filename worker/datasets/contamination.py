"""Contamination: which images of a data set took part in a model's training, or were used to calibrate a policy.

A training's report, which lies beside the card, names its images by their digests.

A list beside a policy names the policy's images (`worker/model/verdicts/policy_files.py`).
An image is recognised by its bytes: a copy is, but an image that was saved again or cropped is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from worker.datasets.digests import data_sha256
from worker.datasets.labelled_image import LabelledImage
from worker.model.cards.editing import report_place
from worker.model.cards.registry import ModelError
from worker.model.cards.schema import ModelCard
from worker.model.verdicts.policy import Policy

_DIGITS = 16
"""Hexadecimal digits of each SHA-256: a report of a million images has 20 MB, not 70, and no two agree by chance."""


@dataclass(frozen=True)
class Contamination:
    """For each image whether the model was trained on it, and whether its best epoch was chosen by it."""

    trained_on: tuple[bool, ...]
    chosen_by: tuple[bool, ...]

    @property
    def training(self) -> int:
        """How many images the model was trained on."""
        return sum(self.trained_on)

    @property
    def validation(self) -> int:
        """By how many images its best epoch was chosen."""
        return sum(self.chosen_by)


class _TrainingDigests(BaseModel):
    train: frozenset[str]
    validation: frozenset[str]


class _Data(BaseModel):
    images: _TrainingDigests | None = None


class _Student(BaseModel):
    sha256: str


class _Report(BaseModel):
    """What is read of a training's report. Those of older releases name no images."""

    data: _Data
    student: _Student


def short_digests(images: Iterable[LabelledImage]) -> list[str]:
    """Return the first 16 hexadecimal digits of the images' SHA-256, each once, sorted."""
    return sorted({image.sha256[:_DIGITS] for image in images})


def training_contamination(card: ModelCard, path: Path, images: Sequence[LabelledImage]) -> Contamination | None:
    """Find the images that took part in a model's training.

    Args:
        card: the model's.
        path: the card's file.
        images: those that are to be looked for.

    Returns:
        Which did; None where that is not known: there is no report beside the card, or it is of other weights.

    Raises:
        ModelError: the report cannot be read.
    """
    known = _training_digests(card, report_place(path, card.name))
    if known is None:
        return None
    return Contamination(_among(images, known.train), _among(images, known.validation))


def policy_contamination(
    policy: Policy, known: Collection[str] | None, images: Sequence[LabelledImage]
) -> tuple[bool, ...] | None:
    """Find the images that a policy was calibrated on.

    Args:
        policy: the policy.
        known: its images, as `images_of` returns them; without them one can only tell whether they are these.
        images: those that are to be looked for.

    Returns:
        For each image whether it was one of them; None where that is not known.
    """
    if known is not None:
        return _among(images, known)
    return (True,) * len(images) if data_sha256(images) == policy.evidence.data_sha256 else None


def _among(images: Sequence[LabelledImage], known: Collection[str]) -> tuple[bool, ...]:
    return tuple(image.sha256[:_DIGITS] in known for image in images)


def _training_digests(card: ModelCard, place: Path) -> _TrainingDigests | None:
    try:
        report = _Report.model_validate_json(place.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"{place} is no report of a training. Put the one that `distildire train` wrote back, or remove it: then "
            "nobody knows which images the model was trained on."
        ) from error
    return report.data.images if report.student.sha256 == card.student.sha256 else None
