"""What a data set's source says of its images: a CSV file line by line, a folder by the names of its folders.

No image is opened here. What nearly fits a layout is reported, never guessed and never ignored: a real image that is
labelled fake costs more than a refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test"]

UNKNOWN_GENERATOR = "unknown"
"""The generator of a fake whose source names none."""

LABELS = {"real": False, "fake": True}

SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""How sources write a split: the names of folders, and the words of a CSV file's column."""


@dataclass(frozen=True)
class ListedImage:
    """An image as its source states it; what it does not state is None or empty."""

    where: str
    path: Path
    fake: bool
    generator: str
    group: str
    split: Split | None


@dataclass(frozen=True)
class Skipped:
    """A file that was skipped, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Listing:
    """What a source lists, in its order, and what it holds that is no part of it."""

    images: tuple[ListedImage, ...] = ()
    skipped: tuple[Skipped, ...] = ()


def is_utf8(path: Path) -> bool:
    """Tell whether a path can be written into a report; Python keeps other bytes of a name as lone surrogates."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
