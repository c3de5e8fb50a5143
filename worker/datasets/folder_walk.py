"""The folders of a data set, walked in order. Each is read once, even if several links lead to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worker.datasets.formats import Skipped, is_utf8

DEEPEST = 40
"""How many folders may lie below one another."""

_HIDDEN = {"__MACOSX", "@eaDir"}
"""Folders that operating systems leave behind, besides names that begin with a dot."""

_IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jxl", ".jp2", ".ppm"),
)


@dataclass(frozen=True)
class Folder:
    """A folder that was read: the names that lead to it from where the walk began, and the files right in it."""

    parts: tuple[str, ...]
    files: tuple[Path, ...]
    holds_folders: bool

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing."""
        return not self.files and not self.holds_folders

    @property
    def images(self) -> list[Path]:
        """The files that are images by their names, and broken links: nobody knows what they were."""
        return [path for path in self.files if looks_like_image(path) or (path.is_symlink() and not path.exists())]


def looks_like_image(path: Path) -> bool:
    """Tell whether a file is an image by its name."""
    return path.suffix.casefold() in _IMAGES


def is_hidden(name: str) -> bool:
    """Tell whether files and folders of this name are no part of a data set."""
    return name.startswith(".") or name in _HIDDEN


@dataclass
class Walk:
    """A walk below `source`; what cannot be read is added to `mistakes`, what is hidden to `skipped`."""

    source: Path
    mistakes: list[str]
    skipped: list[Skipped]
    _seen: dict[tuple[int, int], Path] = field(default_factory=dict)

    def folders(self, start: Path, first: Sequence[str] = ()) -> Iterator[Folder]:
        """Yield a folder, which need not exist, and those below it. Links are followed.

        Args:
            start: where to begin.
            first: names right below it that are walked before others, in this order; all else is by name.
        """
        if start.is_dir():
            yield from self._below(start, (), list(first), ())

    def _below(
        self, folder: Path, parts: tuple[str, ...], first: Sequence[str], above: tuple[tuple[int, int], ...]
    ) -> Iterator[Folder]:
        where = folder.relative_to(self.source).as_posix()
        try:
            found = self._entered(folder, where, above)
            if found is None:
                return
            entries = sorted(os.scandir(folder), key=lambda entry: (_place(entry.name, first), entry.name))
            told = [(folder / entry.name, entry.is_dir()) for entry in entries]
        except OSError as error:
            self.mistakes.append(f"{where} cannot be read: {error.strerror or error}; make it readable, or remove it")
            return
        usable = [(path, is_folder) for path, is_folder in told if self._usable(path)]
        below = [path for path, is_folder in usable if is_folder]
        yield Folder(parts, tuple(path for path, is_folder in usable if not is_folder), bool(below))
        for path in below:
            yield from self._below(path, (*parts, path.name), (), (*above, found))

    def _entered(self, folder: Path, where: str, above: tuple[tuple[int, int], ...]) -> tuple[int, int] | None:
        """Return the folder's device and inode; None if it was read already, or lies too deep."""
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            self.mistakes.append(f"{where} is a link to a folder that it lies in: remove it")
        elif here in self._seen:
            other = self._seen[here].relative_to(self.source).as_posix()
            self.mistakes.append(f"{where} is the same folder as {other}, by a link: remove one")
        elif len(above) >= DEEPEST:
            self.mistakes.append(f"{where} lies more than {DEEPEST} folders deep: move it up")
        else:
            self._seen[here] = folder
            return here
        return None

    def _usable(self, path: Path) -> bool:
        if is_hidden(path.name):
            self.skipped.append(Skipped(path, "hidden, by its name"))
            return False
        if not is_utf8(path):
            where = path.relative_to(self.source).as_posix().encode(errors="backslashreplace").decode()
            self.mistakes.append(f"{where} has a name that is not UTF-8: rename it")
            return False
        return True


def _place(name: str, first: Sequence[str]) -> int:
    return first.index(name) if name in first else len(first)
