"""Checks disk space before hours of work begin."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from worker.atomic_files import DiskFullError


def require_disk_space(needs: Sequence[tuple[Path, int]]) -> None:
    """Compare the bytes that will be written below folders, which need not exist, with what their disks have free.

    Raises:
        DiskFullError: one of the disks has too little free space.
    """
    places = {_existing(folder): folder for folder, _ in needs}
    needed: Counter[int] = Counter()
    for folder, size in needs:
        needed[_disk(folder)] += size
    for existing, folder in places.items():
        size, free = needed[_disk(existing)], shutil.disk_usage(existing).free
        if size > free:
            raise DiskFullError(
                f"Pairs and weights need {size / 1e9:,.1f} GB on the disk of {folder}, where {free / 1e9:,.1f} GB are "
                "free. Free some, name another folder, or ask for fewer variants."
            )


def on_one_disk(path: Path, folder: Path) -> bool:
    """Whether a file can be hard-linked into a folder, which need not exist."""
    return path.stat().st_dev == _disk(folder)


def _disk(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())
