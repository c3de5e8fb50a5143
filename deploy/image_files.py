"""The image files that a command is given, in folders too; and a name for the output of each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from deploy.terminal.streams import readable

_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".mpo"})
#: The most bytes that most file systems take for a name.
_LONGEST_NAME = 255


def gather(paths: Sequence[Path], *, recursive: bool) -> list[Path]:
    """Return the files that are meant: of a folder, with `recursive`, the images in it and below, by their suffixes.

    Raises:
        click.UsageError: a folder is given without `recursive`, or has no image.
    """
    return [file for path in paths for file in _files_of(path, recursive=recursive)]


def stems(paths: Sequence[Path], longest_ending: int) -> list[str]:
    """Return a stem for the output of each file: its own, numbered where two are alike, cut where it is too long.

    `longest_ending`: the most bytes that the caller appends.
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        number, name = 1, _fitting(path.stem, "", longest_ending)
        while name.casefold() in taken:
            number += 1
            name = _fitting(path.stem, f"-{number}", longest_ending)
        taken.add(name.casefold())
        names.append(name)
    return names


def _files_of(path: Path, *, recursive: bool) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    if not recursive:
        raise click.UsageError(f"{readable(path)} is a folder. Give --recursive to take the images in it.")
    found = sorted(each for each in path.rglob("*") if each.suffix.lower() in _SUFFIXES and each.is_file())
    if not found:
        raise click.UsageError(f"There is no image in {readable(path)}.")
    yield from found


def _fitting(stem: str, number: str, longest_ending: int) -> str:
    """The stem and the number; of a stem that is too long its beginning, of which no character is cut in two."""
    text = os.fsdecode(os.fsencode(stem)[: _LONGEST_NAME - longest_ending - len(number)])
    while text != stem[: len(text)]:
        text = text[:-1]
    return text + number
