"""How soon a bomb is refused: by the very sandbox and limits of a worker, without the rest of the service."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TypeVar

from shared.errors import JobError
from shared.images.header import ImageLimits
from shared.settings import Settings
from tests.hostile.generated import BOMBS
from tests.support.bad_images import OddImage
from worker.sandbox.sandbox import Sandbox

MOST_SECONDS = 0.2
_TRIES = 5


@dataclass(frozen=True)
class Refusal:
    """The code of a bomb's refusal, and the time from the order to decode it until that was known, of several tries."""

    bomb: OddImage
    code: str
    median_seconds: float
    longest_seconds: float

    @property
    def broken(self) -> str:
        """What promise was broken, if any."""
        if self.code != self.bomb.code:
            return f"{self.bomb.name}: {self.code}, not {self.bomb.code}"
        return ""

    @property
    def slow(self) -> str:
        """How long it took, if longer than promised; the median, since another process may hold the core for once."""
        late = self.median_seconds > MOST_SECONDS
        return f"{self.bomb.name}: refused after {self.median_seconds:.3f} s" if late else ""


_Sandbox = TypeVar("_Sandbox", bound=Sandbox)


def default_sandbox(kind: type[_Sandbox]) -> _Sandbox:
    """A sandbox with the limits that a worker's settings have by default."""
    default = {name: field.default for name, field in Settings.model_fields.items()}
    return kind(
        ImageLimits(default["max_upload_bytes"], default["max_pixels"]),
        memory_bytes=default["decode_memory_bytes"],
        cpu_seconds=default["decode_seconds"],
    )


def measure() -> list[Refusal]:
    """Refuse each bomb a few times: with the start of a child, the file's way into it and that of its answer."""
    with default_sandbox(Sandbox) as sandbox:
        return [_refusal(sandbox, bomb) for bomb in BOMBS]


def _refusal(sandbox: Sandbox, bomb: OddImage) -> Refusal:
    took, code = [], "opened"
    for _ in range(_TRIES):
        data, began = bomb.data, time.monotonic()
        try:
            sandbox.open(data, 256).close()
        except JobError as error:
            code = error.code
        took.append(time.monotonic() - began)
    return Refusal(bomb, code, sorted(took)[_TRIES // 2], max(took))
