"""Which images a source lists, be it a folder or a CSV file."""

from __future__ import annotations

from pathlib import Path

from worker.datasets.folders import folder_listing
from worker.datasets.formats import Listing, is_utf8
from worker.datasets.manifest import manifest_listing


def read_listing(source: Path, mistakes: list[str]) -> Listing:
    """Return what the source lists, in its order, and add what is wrong with it to `mistakes`; no image is opened."""
    try:
        if not is_utf8(source):
            mistakes.append("its path is not UTF-8: rename it")
        elif source.is_dir():
            return folder_listing(source, mistakes)
        elif source.is_file():
            return manifest_listing(source, mistakes)
        else:
            mistakes.append("it is no file and no folder" if source.exists() else "there is no such path")
    except UnicodeDecodeError as error:
        mistakes.append(f"it cannot be read as CSV in UTF-8: {error}")
    except OSError as error:
        mistakes.append(f"it cannot be read: {error.strerror or error}")
    return Listing()
