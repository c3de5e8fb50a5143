"""The digest of a data set: which images it holds, wherever their files lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from worker.datasets.labelled_image import LabelledImage


def data_sha256(images: Iterable[LabelledImage]) -> str:
    """Return the digest of the images' bytes, labels, generators and groups, whatever their paths and order."""
    return hashlib.sha256("".join(sorted(map(_line, images))).encode()).hexdigest()


def ordered_sha256(images: Iterable[LabelledImage]) -> str:
    """Return a digest that also changes with the images' order."""
    lines = (f"{image.sha256} {image.fake} {image.generator} {image.group}\n" for image in images)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _line(image: LabelledImage) -> str:
    return f"{image.sha256} {'fake' if image.fake else 'real'} {image.generator} {image.group}\n"
