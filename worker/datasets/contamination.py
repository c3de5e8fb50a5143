"""Which images a model knows: the report that its training left beside its card names them by their digests.

A policy's images are known alike, by the list that lies beside it (`worker/model/verdicts/policy.py`).
An image is recognised by its bytes. One that was saved anew since, or cropped, is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from worker.datasets.dataset import LabelledImage
from worker.datasets.digests import data_sha256
from worker.model.cards.editing import report_place
from worker.model.cards.registry import ModelError
from worker.model.cards.schema import ModelCard
from worker.model.verdicts.policy import Policy

_DIGITS = 16
"""Of each SHA-256, so that the report of a million images has 20 MB, not 70. None of them are alike by chance."""


@dataclass(frozen=True)
class Seen:
    """Which images, in their order, the model was trained on, and by which its best epoch was chosen."""

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


class _Images(BaseModel):
    train: frozenset[str]
    validation: frozenset[str]


class _Data(BaseModel):
    images: _Images | None = None


class _Student(BaseModel):
    sha256: str


class _Report(BaseModel):
    """What is read of a training's report. Those of older releases name no images."""

    data: _Data
    student: _Student


def short_digests(files: Iterable[str]) -> list[str]:
    """Return the first 16 hexadecimal digits of the files' SHA-256, each once, sorted."""
    return sorted({sha256[:_DIGITS] for sha256 in files})


def seen_images(card: ModelCard, path: Path, files: Sequence[str]) -> Seen | None:
    """Find the images that took part in a model's training.

    Args:
        card: the model's.
        path: the card's file.
        files: the images' `files_sha256`.

    Returns:
        Which did; None where that is not known: there is no report beside the card, or it is of other weights.

    Raises:
        ModelError: the report cannot be read.
    """
    known = _known_images(card, report_place(path, card.name))
    if known is None:
        return None
    return Seen(_known(files, known.train), _known(files, known.validation))


def seen_by_policy(
    policy: Policy, known: Collection[str] | None, images: Sequence[LabelledImage], files: Sequence[str]
) -> tuple[bool, ...] | None:
    """Find the images that a policy was made of.

    Args:
        policy: that is asked.
        known: its images, as `images_of` returns them; without them one can only tell whether they are these.
        images: which can be read.
        files: their `files_sha256`.

    Returns:
        Of which of them, in their order; None where that is not known.
    """
    if known is not None:
        return _known(files, known)
    return (True,) * len(images) if data_sha256(images, files) == policy.evidence.data_sha256 else None


def _known(files: Sequence[str], known: Collection[str]) -> tuple[bool, ...]:
    return tuple(sha256[:_DIGITS] in known for sha256 in files)


def _known_images(card: ModelCard, place: Path) -> _Images | None:
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
