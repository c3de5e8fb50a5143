"""Disks of their own for the servers, so that one can be full: loop devices, which only root can mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Room for 10,000 jobs and PostgreSQL's log; a file with holes takes only what is written.
_BYTES = 6 * 1024**3
_BALLAST = "ballast"


class Disk:
    """A file system in a file. `folder` is where it is seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._image = folder.with_suffix(".img")

    def mount(self) -> None:
        """Make it and mount it."""
        self.folder.mkdir(parents=True)
        with self._image.open("wb") as image:
            image.truncate(_BYTES)
        _run("mkfs.ext4", "-q", "-m", "0", str(self._image))  # -m 0: root, too, finds it full
        _run("mount", "-o", "loop", str(self._image), str(self.folder))

    def unmount(self) -> None:
        """Take it away; who still has files open on it keeps them."""
        _run("umount", "--lazy", str(self.folder))

    def fill(self) -> None:
        """Leave no block free."""
        with (self.folder / _BALLAST).open("ab") as ballast:
            size = _BYTES
            while size >= 4096:  # a block
                try:
                    os.posix_fallocate(ballast.fileno(), os.fstat(ballast.fileno()).st_size, size)
                except OSError:
                    size //= 2

    def empty(self) -> None:
        """Have all the room again."""
        (self.folder / _BALLAST).unlink(missing_ok=True)


@contextmanager
def mounted(folder: Path, names: Iterable[str]) -> Iterator[dict[str, Disk]]:
    """Mount a disk below `folder` for each name until the block ends; where that cannot be, there is none."""
    disks = {name: Disk(folder / name) for name in names}
    done: list[Disk] = []
    try:
        for disk in disks.values():
            disk.mount()
            done.append(disk)
    except (OSError, subprocess.CalledProcessError):
        _unmount(done)
        disks, done = {}, []
    try:
        yield disks
    finally:
        _unmount(done)


def _unmount(disks: Iterable[Disk]) -> None:
    for disk in disks:
        disk.unmount()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
