"""The layouts of data sets that are understood: which images a source lists, and what it says of each."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Split = Literal["train", "validation", "test"]

UNKNOWN_GENERATOR = "unknown"
"""The generator of a fake whose source names none."""

LABELS = {"real": False, "fake": True}
_CLASS_FOLDERS = {"reals": False, "fakes": True}
_SPLIT_FOLDERS: dict[str, Split] = {"train": "train", "val": "validation", "test": "test"}
_REQUIRED_COLUMNS = ("path", "label")
_LAYOUTS = (
    "a folder with images/fakes and images/reals, a folder with images/{train,val,test}/SUBJECT/{real,GENERATOR}, or a "
    "CSV file with the columns path, label and, where known, generator, group and split"
)


@dataclass(frozen=True)
class Row:
    """An image as its source states it; what it does not state is None or empty."""

    where: str
    path: Path
    fake: bool
    generator: str
    group: str
    split: Split | None


def read_rows(source: Path, mistakes: list[str]) -> list[Row]:
    """Return what the source lists, in its order, and add what is wrong with it to `mistakes`; no image is opened."""
    try:
        if not _is_utf8(source):
            mistakes.append("its path is not UTF-8: rename it")
        elif source.is_file():
            return list(_manifest_rows(source, mistakes))
        elif any((source / "images" / name).is_dir() for name in _CLASS_FOLDERS):
            return list(_class_folder_rows(source, mistakes))
        elif any((source / "images" / name).is_dir() for name in _SPLIT_FOLDERS):
            return list(_split_folder_rows(source, mistakes))
        else:
            known = f"it is none of what is understood: {_LAYOUTS}"
            mistakes.append(known if source.exists() else "there is no such path")
    except (UnicodeDecodeError, csv.Error) as error:
        mistakes.append(f"it cannot be read as CSV in UTF-8: {error}")
    except OSError as error:
        mistakes.append(f"it cannot be read: {error.strerror or error}")
    return []


def _class_folder_rows(source: Path, mistakes: list[str]) -> Iterator[Row]:
    """`images/{fakes,reals}/…`; the first folder below `fakes`, if there is one, names the generator."""
    for name, fake in _CLASS_FOLDERS.items():
        for path in _files(source, source / "images" / name, mistakes):
            where, below = path.relative_to(source).as_posix(), path.relative_to(source / "images" / name).parts
            generator = (below[0] if len(below) > 1 else UNKNOWN_GENERATOR) if fake else ""
            yield Row(where, path, fake, generator, group=where, split=None)


def _split_folder_rows(source: Path, mistakes: list[str]) -> Iterator[Row]:
    """`images/{train,val,test}/SUBJECT/{real,GENERATOR}/…`."""
    misspelt = set()
    for name, split in _SPLIT_FOLDERS.items():
        for path in _files(source, source / "images" / name, mistakes):
            where, below = path.relative_to(source).as_posix(), path.relative_to(source / "images" / name).parts
            if len(below) < 3:
                mistakes.append(f"{where} lies in no folder {name}/SUBJECT/{{real,GENERATOR}}: move it there")
                continue
            fake = below[1] != "real"
            if fake and below[1].casefold() in {"real", "reals"}:
                misspelt.add(f"images/{name}/{below[0]}/{below[1]} would be a generator's: rename it to real")
                continue
            yield Row(where, path, fake, generator=below[1] if fake else "", group=where, split=split)
    mistakes += sorted(misspelt)


def _manifest_rows(source: Path, mistakes: list[str]) -> Iterator[Row]:
    with source.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if missing := [name for name in _REQUIRED_COLUMNS if name not in (reader.fieldnames or ())]:
            mistakes.append(f"it has no column {' and no column '.join(missing)}")
            return
        for fields in reader:
            yield from _manifest_row(source, reader.line_num, fields, mistakes)


def _manifest_row(source: Path, line: int, fields: dict[str, str], mistakes: list[str]) -> Iterator[Row]:
    """Yield the row, or nothing if it has mistakes."""
    path, label, generator, group, split = (
        (fields.get(name) or "").strip() for name in ("path", "label", "generator", "group", "split")
    )
    faults = []
    if not path:
        faults.append("has no path")
    if "\0" in path:
        faults.append("has a path with the character NUL: remove it")
    if label not in LABELS:
        faults.append(f"has the label {label!r}: use {' or '.join(LABELS)}")
    if label == "real" and generator:
        faults.append(f"is labelled real and has the generator {generator!r}: correct one of them")
    if split not in {"", *get_args(Split)}:
        faults.append(f"has the split {split!r}: use {', '.join(get_args(Split))}, or leave it empty")
    mistakes += [f"line {line} {fault}" for fault in faults]
    if not faults:
        fake = LABELS[label]
        stated: Split | None = next((name for name in get_args(Split) if name == split), None)
        maker = (generator or UNKNOWN_GENERATOR) if fake else ""
        yield Row(f"line {line}", source.parent / path, fake, maker, group or path, stated)


def _files(source: Path, folder: Path, mistakes: list[str], above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the files below a folder, which need not be there, and below those that links lead to.

    `above`: the folders, without links, that lead to this one: a link to one of them would go on for ever.
    """
    where, here = folder.relative_to(source), folder.resolve()
    if here in above:
        mistakes.append(f"{where.as_posix()} is a link to a folder that it lies in: remove it")
        return
    try:
        found = [(path, path.is_dir()) for path in sorted(folder.iterdir())] if above or folder.is_dir() else []
    except OSError as error:
        mistakes.append(f"{where.as_posix()} cannot be read: {error.strerror or error}; make it readable, or remove it")
        return
    for path, is_folder in found:
        if not _is_utf8(path):
            name = path.name.encode(errors="backslashreplace").decode()
            mistakes.append(f"{(where / name).as_posix()} has a name that is not UTF-8: rename it")
        elif is_folder:
            yield from _files(source, path, mistakes, (*above, here))
        else:
            yield path


def _is_utf8(path: Path) -> bool:
    """Tell whether a path can be written into a report; Python keeps other bytes of a name as lone surrogates."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
