"""The verdict on each image: as a CSV file, and the worst mistakes among them."""

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
class ImageVerdict:
    """The student's logit, the probability of being fake by the policy or the card, and the verdict."""

    logit: float
    probability: float
    prediction: str


@dataclass(frozen=True)
class ScoredImage:
    """An image and its verdict; None where it was skipped, for the reason that `skipped` gives.

    `took_part_in`: such as training or policy; "unknown" where nobody knows.
    """

    image: LabelledImage
    verdict: ImageVerdict | None
    took_part_in: str = ""
    skipped: str = ""


def scored_images(
    images: Sequence[LabelledImage],
    logits: Floats,
    skipped: Mapping[Path, str],
    took_part_in: Sequence[str],
    decide: Callable[[float], Verdict],
) -> tuple[ScoredImage, ...]:
    """Put each image's verdict beside it.

    Args:
        images: N of them.
        logits: (N,), NaN of those that were skipped.
        skipped: why they were skipped, by their paths.
        took_part_in: N entries, what each image took part in.
        decide: returns the verdict of a logit.
    """
    return tuple(
        ScoredImage(image, _verdict(logit, decide), known, skipped.get(image.path, ""))
        for image, logit, known in zip(images, logits.tolist(), took_part_in, strict=True)
    )


def _verdict(logit: float, decide: Callable[[float], Verdict]) -> ImageVerdict | None:
    if not math.isfinite(logit):
        return None
    verdict = decide(logit)
    return ImageVerdict(logit, verdict.probability_fake, verdict.prediction)


def scores_csv(scored: Sequence[ScoredImage]) -> str:
    """Return one line for each image, in the data's order, with the columns of a list of images and the verdict."""
    text = io.StringIO()
    lines = csv.writer(text)  # with line ends of RFC 4180: with others it would not quote a carriage return
    lines.writerow(_COLUMNS)
    lines.writerows(_cells(each) for each in scored)
    return text.getvalue()


def false_alarms(scored: Sequence[ScoredImage]) -> Iterator[tuple[ScoredImage, ImageVerdict]]:
    """Yield the real images that were classified as FAKE, the surest first; of each group the worst."""
    wrong = [
        (each, each.verdict)
        for each in scored
        if each.verdict and not each.image.fake and each.verdict.prediction == "FAKE"
    ]
    return _of_each_group(sorted(wrong, key=lambda one: -one[1].logit))


def misses(scored: Sequence[ScoredImage]) -> Iterator[tuple[ScoredImage, ImageVerdict]]:
    """Yield the fakes that were not classified as FAKE, the surest first; of each group the worst."""
    wrong = [
        (each, each.verdict)
        for each in scored
        if each.verdict and each.image.fake and each.verdict.prediction != "FAKE"
    ]
    return _of_each_group(sorted(wrong, key=lambda one: one[1].logit))


def _of_each_group(ranked: Sequence[tuple[ScoredImage, ImageVerdict]]) -> Iterator[tuple[ScoredImage, ImageVerdict]]:
    told = set()
    for each, verdict in ranked:
        if each.image.group not in told:
            told.add(each.image.group)
            yield each, verdict


def _cells(scored: ScoredImage) -> Iterator[str]:
    image, verdict = scored.image, scored.verdict
    label = "fake" if image.fake else "real"
    yield from map(_text, (str(image.path), label, image.generator, image.group, image.split))
    yield from (repr(verdict.logit), repr(verdict.probability), verdict.prediction) if verdict else ("", "", "")
    yield from map(_text, (scored.took_part_in, scored.skipped))


def _text(words: str) -> str:
    """Return a cell that no spreadsheet takes for a formula; an apostrophe before it is how they mark text."""
    return f"'{words}" if words.startswith(_FORMULA) else words
