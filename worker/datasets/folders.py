"""A data set that is a folder: which images its folders hold, and what does not belong in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.datasets.conventions import CONVENTIONS, DIFFUSION_FORENSICS, Convention, MisplacedError, Parts, Place
from worker.datasets.folder_walk import Folder, Walk, is_hidden, looks_like_image
from worker.datasets.formats import SPLIT_WORDS, ListedImage, Listing, Skipped, is_utf8
from worker.datasets.manifest import lists_images

_COMPANIONS = ("eps", "dire", "recons")
"""These may lie beside `images`: noise maps, DIRE images and reconstructions of the same pictures."""

_FIRST = ("reals", "fakes", *SPLIT_WORDS)
_SHOWN = 5


@dataclass(frozen=True)
class _Root:
    """The folder that was named, and the one where its layout begins: its `images`, where there is one."""

    source: Path
    base: Path

    def where(self, parts: Parts) -> str:
        """Return a folder's path as the reader knows it."""
        return self.base.joinpath(*parts).relative_to(self.source).as_posix()


def folder_listing(source: Path, mistakes: list[str]) -> Listing:
    """List the images of a folder, and add what is wrong with it to `mistakes`."""
    images, skipped = source / "images", list[Skipped]()
    root = _Root(source, images if images.is_dir() else source)
    folders = list(Walk(source, mistakes, skipped).folders(root.base, _FIRST))
    convention = _convention(folders, root, mistakes)
    rows = tuple(_rows(convention, folders, root, mistakes)) if convention else ()
    mistakes += _beside(root)
    return Listing(rows, tuple(skipped))


def _convention(folders: Sequence[Folder], root: _Root, mistakes: list[str]) -> Convention | None:
    """Return the convention that the folders follow; if it is none or several, add a mistake."""
    claimed: dict[str, Parts] = {}
    for folder in (each for each in folders if each.files or each.is_empty):
        for convention in CONVENTIONS:
            if convention.claims(folder.parts):
                claimed.setdefault(convention.pattern, folder.parts)
    if len(claimed) == 1:
        return next(convention for convention in CONVENTIONS if convention.pattern in claimed)
    if claimed:
        told = " and ".join(f"{root.where(parts)} is of {pattern}" for pattern, parts in claimed.items())
        mistakes.append(f"it mixes layouts: {told}; make a data set of each")
        return None
    if any(folder.parts[0] in SPLIT_WORDS for folder in folders if folder.parts):
        return DIFFUSION_FORENSICS  # its messages describe the mistakes best
    found = [root.where(folder.parts) for folder in folders if len(folder.parts) == 1][:_SHOWN]
    mistakes.append(
        "it is none of what is understood: a folder with images/fakes and images/reals, or with one of "
        f"{', '.join(convention.pattern for convention in CONVENTIONS[1:])} in it or in its folder images; or a CSV "
        "file with the columns path, label and, where known, generator, group and split"
        f"{'; it has ' if found else ''}{', '.join(found)}"
    )
    return None


def _rows(convention: Convention, folders: Sequence[Folder], root: _Root, mistakes: list[str]) -> Iterator[ListedImage]:
    known = {folder.parts for folder in folders}
    told: dict[str, None] = {}  # each once, however many folders lie below
    for folder in folders:
        try:
            place = convention.place(folder.parts, known)
        except MisplacedError as error:
            told[f"{root.where(folder.parts[: error.depth + 1])} {error}"] = None
            continue
        if folder.is_empty and (place is None or len(folder.parts) == place.depth):
            told[f"{root.where(folder.parts)} is empty: put its images there, or remove it"] = None
        elif place is not None:
            yield from _placed(folder, place, root)
        elif folder.images:
            told[_strays(folder, root.where(folder.parts), convention)] = None
    mistakes += sorted(told)


def _placed(folder: Folder, place: Place, root: _Root) -> Iterator[ListedImage]:
    for path in folder.files:
        where = path.relative_to(root.source).as_posix()
        yield ListedImage(where, path, place.fake, place.generator, group=where, split=place.split)


def _strays(folder: Folder, where: str, convention: Convention) -> str:
    first, more = folder.images[0].name, len(folder.images) - 1
    lie = f"and {more:,} more lie" if more else "lies"
    top = folder.parts[0] if folder.parts and folder.parts[0] in SPLIT_WORDS else "{train,val,test}"
    pattern = convention.pattern.replace("{train,val,test}", top)
    return f"{where}/{first} {lie} in no folder {pattern}: move there what belongs there, and the rest away"


def _beside(root: _Root) -> Iterator[str]:
    """Name what lies beside the layout and lists or holds images that nobody would read."""
    for path in sorted(root.source.iterdir()):
        if is_hidden(path.name) or not is_utf8(path):
            continue
        if path.suffix.casefold() == ".csv" and lists_images(path):
            yield f"{path.name} lists images as well: name that file in place of the folder, or move it away"
        elif root.base not in (root.source, path) and path.name not in _COMPANIONS:
            yield from _unread(root.source, path)


def _unread(source: Path, path: Path) -> Iterator[str]:
    """Name the first image of a file or folder beside `images`."""
    below = (image for folder in Walk(source, [], []).folders(path) for image in folder.images)
    first = next(below, path if looks_like_image(path) and not path.is_dir() else None)
    if first is not None:
        yield f"{first.relative_to(source).as_posix()} lies beside images, where none is read: move {path.name} away"
