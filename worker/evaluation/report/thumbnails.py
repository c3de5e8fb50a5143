"""Small copies of the worst mistakes, embedded in the report's page so that it needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from shared.errors import JobError
from worker.datasets.labelled_image import ChangedImageError, LabelledImage
from worker.evaluation.scored_images import ImageVerdict, ScoredImage, false_alarms, misses
from worker.imaging.decoding import ImageLimits, decode

SHOWN = 12
_SIDE = 160  # pixels
_QUALITY = 70


@dataclass(frozen=True)
class Exhibit:
    """An image that was classified wrongly; `picture` is a `data:` address, empty where it cannot be read any more."""

    path: str
    generator: str
    verdict: ImageVerdict
    picture: str


@dataclass(frozen=True)
class Gallery:
    """The worst false alarms and misses, and of how many source images there are any."""

    false_alarms: tuple[Exhibit, ...]
    misses: tuple[Exhibit, ...]
    false_alarms_in_all: int
    misses_in_all: int


def gallery(scored: Sequence[ScoredImage]) -> Gallery:
    """Return the worst mistakes, at most `SHOWN` of either kind."""
    alarms, missed = list(false_alarms(scored)), list(misses(scored))
    return Gallery(tuple(_exhibits(alarms)), tuple(_exhibits(missed)), len(alarms), len(missed))


def _exhibits(wrong: Iterable[tuple[ScoredImage, ImageVerdict]]) -> Iterator[Exhibit]:
    for scored, verdict in islice(wrong, SHOWN):
        image = scored.image
        yield Exhibit(str(image.path), image.generator, verdict, _picture(image))


def _picture(image: LabelledImage) -> str:
    """Return a small copy of what was scored, read as it was then."""
    try:
        small = decode(image.read(), ImageLimits()).image
    except (ChangedImageError, JobError, OSError):
        return ""
    small.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
