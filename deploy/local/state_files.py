"""Files in which a stack keeps what a later command must find: written whole, and read as nothing where damaged.

A power cut may leave any file empty, full of zeros or half written. `distildire up` finds out again what such a file
said, except for the credentials, which are therefore kept twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from shared.errors import DistildireError

_T = TypeVar("_T")


class DamagedError(DistildireError):
    """A file of the data directory cannot be read."""


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all even if the power fails, readable by its owner alone (mode 0600)."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the disk know the names in a folder as they are now."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_drafts(folder: Path) -> None:
    """Remove the half-written files of writers that were killed. Call it while no other process may write."""
    for draft in folder.glob(".*.[0-9]*"):
        with suppress(OSError):
            draft.unlink()


def read_damageable(path: Path, parse: Callable[[Any], _T]) -> _T | None:
    """Return what `parse` makes of a JSON file; None where there is none.

    Raises:
        DamagedError: it cannot be read, or `parse` cannot take it.
    """
    try:
        return parse(json.loads(path.read_text(encoding="utf-8", errors="surrogateescape")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged. `distildire up` writes it again.") from error


def read_if_whole(path: Path, parse: Callable[[Any], _T]) -> _T | None:
    """Return the same, and None also where the file is damaged."""
    try:
        return read_damageable(path, parse)
    except DamagedError:
        return None
