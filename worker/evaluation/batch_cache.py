"""What was judged already: so that an evaluation that was broken off goes on where it was.

One small file for each batch, in folders whose names tell images, batch size, weights, what the card makes of them,
device and number format, so that nothing stale is used.
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
class Judgement:
    """What came of one batch: each image's numbers by their names, None where it was skipped; and why it was."""

    numbers: dict[str, list[float | None]]
    skipped: dict[str, str]


class BatchCache:
    """Judgements of the evaluation that `identity` describes, kept below `folder` until it is done.

    `identity`: everything that the numbers depend on.
    """

    def __init__(self, folder: Path, identity: Iterable[str]) -> None:
        digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()
        self.folder = folder / f".judged-{digest[:16]}"

    def recall(self, part: str, batch: int) -> Judgement | None:
        """Return what was noted of a batch, or None."""
        try:
            return Judgement(**json.loads(self._place(part, batch).read_bytes()))
        except FileNotFoundError:
            return None

    def note(self, part: str, batch: int, judgement: Judgement) -> None:
        """Keep what came of a batch. Raises DiskFullError; what was noted before stays."""
        place = self._place(part, batch)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, json.dumps(asdict(judgement)).encode())

    def clear(self) -> None:
        """Remove everything: the work is done, its result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, part: str, batch: int) -> Path:
        return self.folder / hashlib.sha256(part.encode()).hexdigest()[:16] / f"{batch}.json"
