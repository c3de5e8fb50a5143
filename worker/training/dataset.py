"""A data set of one's own: which images there are, which class, generator, group and split each belongs to.

Three layouts are understood (`read_dataset`). All that can be wrong with labels, splits and groups is found at once,
before anything is computed; files that are missing or cannot be decoded are listed and left out.
"""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from shared.errors import DistildireError, JobError
from worker.imaging import ImageLimits, decode

Split = Literal["train", "validation", "test"]

UNKNOWN_GENERATOR = "unknown"
"""The generator of a fake whose source names none."""

_LABELS = {"real": False, "fake": True}
_CLASS_FOLDERS = {"reals": False, "fakes": True}
_SPLIT_FOLDERS: dict[str, Split] = {"train": "train", "val": "validation", "test": "test"}
_REQUIRED_COLUMNS = ("path", "label")
_LAYOUTS = (
    "a folder with images/fakes and images/reals, a folder with images/{train,val,test}/SUBJECT/{real,GENERATOR}, or a "
    "CSV file with the columns path, label and, where known, generator, group and split"
)


class DatasetError(DistildireError):
    """The data set is wrong. `mistakes` lists everything that must be corrected, in the source's order."""

    def __init__(self, source: Path, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        lines = "".join(f"\n- {mistake}" for mistake in mistakes)
        super().__init__(f"{source} cannot be used as a data set until this is corrected:{lines}")


@dataclass(frozen=True)
class LabelledImage:
    """One image and what is known of it.

    `generator`: what made a fake; empty for a real photograph. `group`: the photograph that it is, or was made from;
    its own path where that is not known. All images of a group are in one split.
    """

    path: Path
    fake: bool
    generator: str
    group: str
    split: Split


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Dataset:
    """The usable images in the source's order, and the files that were left out."""

    images: tuple[LabelledImage, ...]
    skipped: tuple[Skipped, ...]

    def of(self, split: Split) -> tuple[LabelledImage, ...]:
        """Return the images of one split."""
        return tuple(image for image in self.images if image.split == split)


@dataclass(frozen=True)
class _Row:
    """An image as its source states it; what it does not state is None or empty."""

    where: str
    path: Path
    fake: bool
    generator: str
    group: str
    split: Split | None


def read_dataset(source: Path) -> Dataset:
    """Read which images there are, and decode each once to see that it can be.

    Args:
        source: a folder with `images/{fakes,reals}`, where a folder below `fakes` names a generator; a folder with
            `images/{train,val,test}/SUBJECT/{real,GENERATOR}` (DiffusionForensics); or a CSV file with the columns
            `path` (relative to the file's folder), `label` (`real` or `fake`), and, where known, `generator`, `group`
            and `split` (`train`, `validation` or `test`). A group whose split is not stated gets one by its digest.

    Raises:
        DatasetError: a label, split or group is wrong, a group is in two splits, an image is listed twice, a class has
            no images, the same file has two labels or is in two splits or groups, a folder or name cannot be read, or
            the layout is none of these. All mistakes are named.
    """
    mistakes: list[str] = []
    rows = _read_rows(source, mistakes)
    images = _with_splits(rows, mistakes)
    mistakes += _repeated(rows)
    usable, skipped = _sift(images, mistakes)
    if rows or not mistakes:  # else it could not be read at all
        mistakes += _missing_classes(usable, skipped)
    if mistakes:
        raise DatasetError(source, mistakes)
    return Dataset(usable, skipped)


def split_of(group: str) -> Split:
    """Assign a group to a split by its digest: 14, 3 and 3 in 20, whatever else the data set holds."""
    bucket = int(hashlib.sha256(group.encode()).hexdigest(), 16) % 20
    if bucket < 14:
        return "train"
    return "validation" if bucket < 17 else "test"


def _read_rows(source: Path, mistakes: list[str]) -> list[_Row]:
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


def _class_folder_rows(source: Path, mistakes: list[str]) -> Iterator[_Row]:
    """`images/{fakes,reals}/…`; the first folder below `fakes`, if there is one, names the generator."""
    for name, fake in _CLASS_FOLDERS.items():
        for path in _files(source, source / "images" / name, mistakes):
            where, below = path.relative_to(source).as_posix(), path.relative_to(source / "images" / name).parts
            generator = (below[0] if len(below) > 1 else UNKNOWN_GENERATOR) if fake else ""
            yield _Row(where, path, fake, generator, group=where, split=None)


def _split_folder_rows(source: Path, mistakes: list[str]) -> Iterator[_Row]:
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
            yield _Row(where, path, fake, generator=below[1] if fake else "", group=where, split=split)
    mistakes += sorted(misspelt)


def _manifest_rows(source: Path, mistakes: list[str]) -> Iterator[_Row]:
    with source.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if missing := [name for name in _REQUIRED_COLUMNS if name not in (reader.fieldnames or ())]:
            mistakes.append(f"it has no column {' and no column '.join(missing)}")
            return
        for fields in reader:
            yield from _manifest_row(source, reader.line_num, fields, mistakes)


def _manifest_row(source: Path, line: int, fields: dict[str, str], mistakes: list[str]) -> Iterator[_Row]:
    """Yield the row, or nothing if it has mistakes."""
    path, label, generator, group, split = (
        (fields.get(name) or "").strip() for name in ("path", "label", "generator", "group", "split")
    )
    faults = []
    if not path:
        faults.append("has no path")
    if "\0" in path:
        faults.append("has a path with the character NUL: remove it")
    if label not in _LABELS:
        faults.append(f"has the label {label!r}: use {' or '.join(_LABELS)}")
    if label == "real" and generator:
        faults.append(f"is labelled real and has the generator {generator!r}: correct one of them")
    if split not in {"", *get_args(Split)}:
        faults.append(f"has the split {split!r}: use {', '.join(get_args(Split))}, or leave it empty")
    mistakes += [f"line {line} {fault}" for fault in faults]
    if not faults:
        fake = _LABELS[label]
        stated: Split | None = next((name for name in get_args(Split) if name == split), None)
        maker = (generator or UNKNOWN_GENERATOR) if fake else ""
        yield _Row(f"line {line}", source.parent / path, fake, maker, group or path, stated)


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


def _with_splits(rows: Sequence[_Row], mistakes: list[str]) -> tuple[LabelledImage, ...]:
    """Give every image the split that its group has, by statement or by digest."""
    groups: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    splits: dict[str, Split] = {}
    for group, members in groups.items():
        stated = {row.split: row.where for row in reversed(members) if row.split is not None}
        if len(stated) > 1:
            places = " and ".join(f"{split} ({where})" for split, where in sorted(stated.items()))
            mistakes.append(f"the group {group!r} is in {len(stated)} splits: {places}; put it into one")
        splits[group] = next(iter(stated), split_of(group))
    return tuple(LabelledImage(row.path, row.fake, row.generator, row.group, splits[row.group]) for row in rows)


def _repeated(rows: Iterable[_Row]) -> list[str]:
    first: dict[Path, _Row] = {}
    return [
        f"{row.where} repeats {first[row.path].path} of {first[row.path].where}: remove one"
        for row in rows
        if first.setdefault(row.path, row) is not row
    ]


def _missing_classes(images: Sequence[LabelledImage], skipped: Sequence[Skipped]) -> list[str]:
    present = {image.fake for image in images}
    first = "; ".join(f"{one.path}: {one.reason}" for one in skipped[:3])
    why = f"; {len(skipped)} files were left out ({first} …)" if skipped else ""
    return [f"there is no {label} image{why}" for label, fake in _LABELS.items() if fake not in present]


def _sift(
    images: Sequence[LabelledImage], mistakes: list[str]
) -> tuple[tuple[LabelledImage, ...], tuple[Skipped, ...]]:
    """Part the images that can be decoded from those that cannot. Decoders run side by side: they release the GIL."""
    # The filters of warnings, which `decode` sets for its time, belong to all threads: what these leave ends with it.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda image: _inspected(image.path), images))
    usable = [(image, one) for image, one in zip(images, found, strict=True) if not isinstance(one, Skipped)]
    mistakes += _contradictions(usable)
    return tuple(image for image, _ in usable), tuple(one for one in found if isinstance(one, Skipped))


def _inspected(path: Path) -> str | Skipped:
    """Return the SHA-256 of a file that can be decoded, or why it cannot."""
    try:
        decode(path, ImageLimits())
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except JobError as error:
        return Skipped(path, f"{error.code}: {error.message}")
    except OSError as error:
        return Skipped(path, f"cannot be read: {error.strerror or error}")


def _contradictions(images: Iterable[tuple[LabelledImage, str]]) -> list[str]:
    """Name the files of one content that have two labels, or are in two splits or groups."""
    first: dict[str, LabelledImage] = {}
    mistakes = []
    for image, sha256 in images:
        other = first.setdefault(sha256, image)
        if image.path == other.path:
            continue  # itself, or named by `_repeated`
        if image.fake != other.fake:
            mistakes.append(f"{image.path} is the same file as {other.path}, labelled otherwise: remove one or both")
        elif image.split != other.split:
            splits = f"{image.split}, the other in {other.split}"
            mistakes.append(f"{image.path} is the same file as {other.path} and is in {splits}: remove one")
        elif image.group != other.group:
            remedy = "in another group: remove one, or give both one group"
            mistakes.append(f"{image.path} is the same file as {other.path}, {remedy}")
    return mistakes
