"""What was said of each image, one by one: as a CSV file, and the worst mistakes among them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.datasets.labelled_image import LabelledImage
from worker.metrics.ranking import Floats
from worker.model.verdicts.verdict import Verdict

_COLUMNS = ("path", "label", "generator", "group", "split", "logit", "probability", "verdict", "seen", "skipped")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How cells begin that a spreadsheet would compute: so names of files could run commands there."""


@dataclass(frozen=True)
class Said:
    """The student's logit, the probability of being fake by the policy or the card, and the verdict."""

    logit: float
    probability: float
    verdict: str


@dataclass(frozen=True)
class JudgedImage:
    """An image and what was said of it; None where it was skipped, for the reason that is told.

    `seen`: in what the image took part, such as training; "unknown" where nobody knows.
    """

    image: LabelledImage
    said: Said | None
    seen: str = ""
    skipped: str = ""


def judged_images(
    images: Sequence[LabelledImage],
    logits: Floats,
    skipped: Mapping[Path, str],
    seen: Sequence[str],
    call: Callable[[float], Verdict],
) -> tuple[JudgedImage, ...]:
    """Put beside each image what was said of it.

    Args:
        images: N of them.
        logits: (N,), NaN of those that were skipped.
        skipped: why those were.
        seen: N entries, in what each image took part.
        call: makes a verdict of a logit.
    """
    return tuple(
        JudgedImage(image, _said(logit, call), known, skipped.get(image.path, ""))
        for image, logit, known in zip(images, logits.tolist(), seen, strict=True)
    )


def _said(logit: float, call: Callable[[float], Verdict]) -> Said | None:
    if not math.isfinite(logit):
        return None
    called = call(logit)
    return Said(logit, called.probability_fake, called.prediction)


def scores_csv(judged: Sequence[JudgedImage]) -> str:
    """Return one line for each image, in the data's order, with the columns of a list of images and what was said."""
    text = io.StringIO()
    lines = csv.writer(text)  # with line ends of RFC 4180: with others it would not quote a carriage return
    lines.writerow(_COLUMNS)
    lines.writerows(_cells(each) for each in judged)
    return text.getvalue()


def false_alarms(judged: Sequence[JudgedImage]) -> Iterator[tuple[JudgedImage, Said]]:
    """Yield the photographs that were called FAKE, the surest first; of each group the worst."""
    wrong = [(each, each.said) for each in judged if each.said and not each.image.fake and each.said.verdict == "FAKE"]
    return _of_each_group(sorted(wrong, key=lambda one: -one[1].logit))


def misses(judged: Sequence[JudgedImage]) -> Iterator[tuple[JudgedImage, Said]]:
    """Yield the fakes that were not called FAKE, the surest first; of each group the worst."""
    wrong = [(each, each.said) for each in judged if each.said and each.image.fake and each.said.verdict != "FAKE"]
    return _of_each_group(sorted(wrong, key=lambda one: one[1].logit))


def _of_each_group(ranked: Sequence[tuple[JudgedImage, Said]]) -> Iterator[tuple[JudgedImage, Said]]:
    told = set()
    for each, said in ranked:
        if each.image.group not in told:
            told.add(each.image.group)
            yield each, said


def _cells(judged: JudgedImage) -> Iterator[str]:
    image, said = judged.image, judged.said
    label = "fake" if image.fake else "real"
    yield from map(_text, (str(image.path), label, image.generator, image.group, image.split))
    yield from (repr(said.logit), repr(said.probability), said.verdict) if said else ("", "", "")
    yield from map(_text, (judged.seen, judged.skipped))


def _text(words: str) -> str:
    """Return a cell that no spreadsheet takes for a formula; an apostrophe before it is how they mark text."""
    return f"'{words}" if words.startswith(_FORMULA) else words
