"""Small copies of the images that were judged worst, for the report's page: it needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from shared.errors import JobError
from worker.datasets.labelled_image import ChangedImageError, LabelledImage
from worker.evaluation.judged import JudgedImage, Said, false_alarms, misses
from worker.imaging.decoding import ImageLimits, decode

SHOWN = 12
_SIDE = 160  # pixels
_QUALITY = 70


@dataclass(frozen=True)
class Exhibit:
    """An image that was judged wrongly; `picture` is a `data:` address, empty where it cannot be read any more."""

    path: str
    generator: str
    said: Said
    picture: str


@dataclass(frozen=True)
class Gallery:
    """The worst false alarms and misses, and of how many source photographs there are any."""

    false_alarms: tuple[Exhibit, ...]
    misses: tuple[Exhibit, ...]
    false_alarms_in_all: int
    misses_in_all: int


def gallery(judged: Sequence[JudgedImage]) -> Gallery:
    """Return the worst mistakes, at most `SHOWN` of either kind."""
    alarms, missed = list(false_alarms(judged)), list(misses(judged))
    return Gallery(tuple(_exhibits(alarms)), tuple(_exhibits(missed)), len(alarms), len(missed))


def _exhibits(wrong: Iterable[tuple[JudgedImage, Said]]) -> Iterator[Exhibit]:
    for judged, said in islice(wrong, SHOWN):
        image = judged.image
        yield Exhibit(str(image.path), image.generator, said, _picture(image))


def _picture(image: LabelledImage) -> str:
    """Return a small copy of what was judged, read as it was then."""
    try:
        small = decode(image.read(), ImageLimits()).image
    except (ChangedImageError, JobError, OSError):
        return ""
    small.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
