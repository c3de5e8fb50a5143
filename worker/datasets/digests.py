"""Which images a data set holds, wherever they lie: the digest of each file, and one of them all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from worker.datasets.dataset import LabelledImage


def files_sha256(images: Sequence[LabelledImage]) -> list[str]:
    """Return the SHA-256 of each image's file.

    Raises:
        OSError: an image cannot be read.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_file_sha256, (image.path for image in images)))


def data_sha256(images: Sequence[LabelledImage], files: Sequence[str] | None = None) -> str:
    """Return the digest of the images' bytes, labels, generators and groups, whatever their paths and order.

    Args:
        images: of a data set, or of a part of it.
        files: their `files_sha256`, where they are known.

    Raises:
        OSError: an image cannot be read.
    """
    lines = [
        f"{sha256} {'fake' if image.fake else 'real'} {image.generator} {image.group}\n"
        for image, sha256 in zip(images, files or files_sha256(images), strict=True)
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
