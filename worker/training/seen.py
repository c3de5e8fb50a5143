"""Which images a model knows: the report that its training left beside its card names them by their digests.

An image is recognised by its bytes. One that was saved anew since, or cropped, is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from worker.model.card import ModelError
from worker.model.config import ModelCard
from worker.training.data_digest import files_sha256
from worker.training.dataset import LabelledImage

_DIGITS = 16
"""Of each SHA-256, so that the report of a million images has 20 MB, not 70. None of them are alike by chance."""


@dataclass(frozen=True)
class Seen:
    """How many images the model was trained on, and by how many its best epoch was chosen."""

    training: int
    validation: int


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


def report_place(card: Path, model: str) -> Path:
    """Return where the report of the training lies whose model has the card file at `card`."""
    return card.with_name(f"{model}.training.json")


def short_digests(files: Iterable[str]) -> list[str]:
    """Return the first 16 hexadecimal digits of the files' SHA-256, each once, sorted."""
    return sorted({sha256[:_DIGITS] for sha256 in files})


def seen_images(card: ModelCard, path: Path, images: Sequence[LabelledImage]) -> Seen | None:
    """Count the images that took part in a model's training.

    Args:
        card: the model's.
        path: the card's file.
        images: which can be read.

    Returns:
        The counts; None where they are not known: there is no report beside the card, or it is of other weights.

    Raises:
        ModelError: the report cannot be read.
    """
    known = _known_images(card, report_place(path, card.name))
    if known is None:
        return None
    names = [sha256[:_DIGITS] for sha256 in files_sha256(images)]
    return Seen(sum(name in known.train for name in names), sum(name in known.validation for name in names))


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
