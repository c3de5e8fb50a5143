"""The batches that were scored already, so that an interrupted evaluation continues where it stopped.

Each batch has a small file. The names of its folders are digests of all that the numbers depend on: images, batch size,
weights, the card's settings, device and number format. So nothing stale is used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.atomic_files import write_whole


@dataclass(frozen=True)
class BatchResult:
    """One batch: each image's numbers by their names, None where the image was skipped; and the reasons."""

    numbers: dict[str, list[float | None]]
    skipped: dict[str, str]


class BatchCache:
    """Results of the evaluation that `identity` describes, kept below `folder` until it is done.

    `identity`: everything that the numbers depend on.
    """

    def __init__(self, folder: Path, identity: Iterable[str]) -> None:
        digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()
        self.folder = folder / f".judged-{digest[:16]}"

    def recall(self, part: str, batch: int) -> BatchResult | None:
        """Return the result of a batch, or None if there is none."""
        try:
            return BatchResult(**json.loads(self._place(part, batch).read_bytes()))
        except FileNotFoundError:
            return None

    def note(self, part: str, batch: int, result: BatchResult) -> None:
        """Keep the result of a batch. Raises DiskFullError; earlier results stay."""
        place = self._place(part, batch)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, json.dumps(asdict(result)).encode())

    def clear(self) -> None:
        """Remove everything: the work is done, its result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, part: str, batch: int) -> Path:
        return self.folder / hashlib.sha256(part.encode()).hexdigest()[:16] / f"{batch}.json"
