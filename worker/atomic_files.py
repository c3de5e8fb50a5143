"""Files that appear whole or not at all, whenever the process or the machine dies. Free of torch."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import DistildireError

_STALE_SECONDS = 3600
_OURS = f"*.{'[0-9a-f]' * 16}.partial"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DiskFullError(DistildireError):
    """The disk is too full for what must be written."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it has its whole content, or the one before, whenever the process or the machine dies.

    Raises:
        DiskFullError: the disk is full; nothing changed.
        OSError: anything else that went wrong.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")  # containers share process ids
    try:
        with full_disk_told(path), partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written. Files of the last hour stay: somebody may be writing them.

    A paused download, `FILE.partial`, is none of them.
    """
    for partial in folder.glob(_OURS):
        with suppress(FileNotFoundError):  # another process sweeps as well
            if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
                partial.unlink()


@contextmanager
def full_disk_told(path: Path) -> Iterator[None]:
    """Raise DiskFullError in place of the system's error where the disk is too full to write `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFullError(
            f"There is no space to write {path}. Free some, then run the same command again: it goes on from what is "
            "there."
        ) from error
