"""One image of a data set: what is known of it, and its file, which is read once.

The digest and the pixels of an image come from the same bytes. Those that are needed again stay in memory while there
is memory for them. Others are read again when they are needed, and are refused unless they have the same digest.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import DistildireError, JobError
from worker.datasets.formats import ListedImage, Skipped, Split
from worker.imaging.decoding import ImageLimits, decode

_LIMITS = ImageLimits()
HELD_BYTES = 1 << 30
"""How many bytes of a data set's files stay in memory: 1 GiB."""


class ChangedImageError(DistildireError):
    """An image's file is not the one whose digest was computed."""


@dataclass(frozen=True)
class LabelledImage:
    """One image and what is known of it.

    `generator`: what made a fake; empty for a real image. `group`: the source image that it is, or was made from; its
    own path where that is not known. All images of a group are in one split. `sha256`: the digest of its file.
    `media_type`: what the file's first bytes say. `content`: the file, where it stays in memory.
    """

    path: Path
    fake: bool
    generator: str
    group: str
    split: Split
    sha256: str
    media_type: str
    content: bytes | None = field(default=None, repr=False, compare=False)

    def read(self) -> bytes:
        """Return the file that has the digest.

        Raises:
            ChangedImageError: the file has changed since the digest was computed.
            OSError: the file cannot be read.
        """
        if self.content is not None:
            return self.content
        content = _file_content(self.path)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ChangedImageError(
                f"{self.path} has changed since this command read the data set. Run the same command again."
            )
        return content


class FileMemory:
    """How many bytes of files may still stay in memory. Threads may share one."""

    def __init__(self) -> None:
        self._free, self._lock = HELD_BYTES, threading.Lock()

    def reserve(self, size: int) -> bool:
        """Take so many bytes, and tell whether there were as many."""
        with self._lock:
            if size > self._free:
                return False
            self._free -= size
            return True


def checked_image(listed: ListedImage, split: Split, memory: FileMemory | None) -> LabelledImage | Skipped:
    """Read an image's file once: decode it to see that it can be, and compute its digest.

    Args:
        listed: what the data set's source states of the image.
        split: that of its group.
        memory: where the file may stay; None where its pixels are not needed by this command.

    Returns:
        The image, or the file with the reason why it cannot be used.
    """
    path = listed.path
    try:
        if path.exists() and not path.is_file():
            return Skipped(path, "is no file")  # reading a pipe would block for ever
        content = _file_content(path)
        media_type = decode(content, _LIMITS).facts.media_type
    except JobError as error:
        return Skipped(path, f"{error.code}: {error.message}")
    except OSError as error:
        return Skipped(path, f"cannot be read: {error.strerror or error}")
    held = content if memory is not None and memory.reserve(len(content)) else None
    sha256 = hashlib.sha256(content).hexdigest()
    return LabelledImage(path, listed.fake, listed.generator, listed.group, split, sha256, media_type, held)


def _file_content(path: Path) -> bytes:
    """Return a file's bytes, at most one more than the limit: enough for the decoder to refuse it."""
    with path.open("rb") as file:
        return file.read(_LIMITS.max_bytes + 1)
