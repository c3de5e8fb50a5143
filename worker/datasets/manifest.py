"""A data set that is a CSV file: a line for each image, read where it can mean one thing only."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TextIO, get_args

from worker.datasets.class_words import says_real
from worker.datasets.formats import LABELS, SPLIT_WORDS, UNKNOWN_GENERATOR, ListedImage, Listing, Split

_REQUIRED = ("path", "label")
_COLUMNS = (*_REQUIRED, "generator", "group", "split")
_SEPARATORS = (",", ";", "\t")
_NEARLY = 0.8
"""Likeness from which a column's name is taken for a slip, as `splits` for `split`."""


def manifest_listing(source: Path, mistakes: list[str]) -> Listing:
    """List the images of a CSV file, and add what is wrong with it to `mistakes`."""
    with source.open(newline="", encoding="utf-8-sig") as file:
        lines = _lines(file, _separator(file) or ",", mistakes)
        heads = _names(next(lines, (1, []))[1])
        faults = _column_faults(heads)
        mistakes += faults
        return Listing(() if faults else tuple(_rows(source, heads, lines, mistakes)))


def lists_images(path: Path) -> bool:
    """Tell whether a file could be named as a data set, by its first line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _separator(file) is not None
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def _separator(file: TextIO) -> str | None:
    """Return what parts the columns that are needed; the file is read from its start again afterwards."""
    for separator in _SEPARATORS:
        heads = _names(next(csv.reader(file, delimiter=separator), []))
        file.seek(0)
        if set(_REQUIRED) <= set(heads):
            return separator
    return None


def _lines(file: TextIO, separator: str, mistakes: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield cells with the number of their line, up to the first that is no CSV: an open quote swallows the rest."""
    reader = csv.reader(file, delimiter=separator, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        mistakes.append(f"line {reader.line_num} cannot be read as CSV: {error}")


def _names(cells: Sequence[str]) -> list[str]:
    return [cell.strip().casefold() for cell in cells]


def _column_faults(heads: Sequence[str]) -> list[str]:
    others = [name for name in heads if name not in _COLUMNS]
    slips = {column: get_close_matches(column, others, 1, _NEARLY) for column in _COLUMNS if column not in heads}
    missing = [column for column in _REQUIRED if not slips.get(column, True)]
    faults = [f"it has no column {' and no column '.join(missing)}"] if missing else []
    for column in _COLUMNS:
        if near := slips.get(column):
            faults.append(f"it has a column {near[0]!r}: rename it to {column}, or remove it")
        if heads.count(column) > 1:
            faults.append(f"it has {heads.count(column)} columns {column}: remove all but one")
    return faults


def _rows(
    source: Path, heads: Sequence[str], lines: Iterator[tuple[int, list[str]]], mistakes: list[str]
) -> Iterator[ListedImage]:
    for number, cells in lines:
        told = [cell.strip() for cell in cells]
        if not any(told):
            continue
        if len(told) < len(heads) or any(told[len(heads) :]):
            remedy = "quote what has a separator in it, and leave no field out"
            mistakes.append(f"line {number} has {len(told)} fields for {len(heads)} columns: {remedy}")
            continue
        fields = dict(zip(heads, told, strict=False))
        faults = list(_faults(fields))
        mistakes += [f"line {number} {fault}" for fault in faults]
        if not faults:
            yield _row(source, number, fields)


def _faults(fields: Mapping[str, str]) -> Iterator[str]:
    path, label, generator, split = (fields.get(name, "") for name in ("path", "label", "generator", "split"))
    if not path:
        yield "has no path"
    if "\0" in path:
        yield "has a path with the character NUL: remove it"
    if label.casefold() not in LABELS:
        yield f"has the label {label!r}: use {' or '.join(LABELS)}"
    elif generator and (not LABELS[label.casefold()] or says_real(generator)):
        yield f"is labelled {label} and has the generator {generator!r}: correct one of them"
    if split and split.casefold() not in SPLIT_WORDS:
        yield f"has the split {split!r}: use {', '.join(get_args(Split))}, or leave it empty"


def _row(source: Path, number: int, fields: Mapping[str, str]) -> ListedImage:
    path, fake = fields["path"], LABELS[fields["label"].casefold()]
    generator = (fields.get("generator") or UNKNOWN_GENERATOR) if fake else ""
    split = SPLIT_WORDS.get(fields.get("split", "").casefold())
    return ListedImage(f"line {number}", source.parent / path, fake, generator, fields.get("group") or path, split)
