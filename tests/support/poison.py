"""Poison: images that do harm where they are decoded, or in the pass of the device, and the harm that each does.

It stands for flaws of libraries that nobody knows yet. Production code knows nothing of it: tests start workers with
`tests.processes.poisoned_worker`, which puts it where the flaw would be.
"""

from __future__ import annotations

import ctypes
import io
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from shared.errors import ErrorCode

_MARK = b"poison:"
_SIDE = 64


class PoisonedStep(StrEnum):
    """Where the harm is done."""

    DECODER = "decoder"
    BATCH = "batch"


@dataclass(frozen=True)
class Poison:
    """One kind."""

    place: PoisonedStep
    harm: str
    code: ErrorCode
    """With which its job fails."""

    @property
    def name(self) -> str:
        """As the command line calls it."""
        return f"{self.place}-{self.harm}"

    @property
    def colour(self) -> tuple[int, int, int]:
        """By which the pass of the device knows it."""
        return 255, 16 * POISONS.index(self), 7

    def image(self) -> bytes:
        """Return a file that carries it."""
        mark, file = PngInfo(), io.BytesIO()
        mark.add_text("comment", _MARK.decode() + self.name)
        Image.new("RGB", (_SIDE, _SIDE), self.colour).save(file, "PNG", pnginfo=mark)
        return file.getvalue()


POISONS = (
    Poison(PoisonedStep.DECODER, "segfault", ErrorCode.DECODE_CRASHED),
    Poison(PoisonedStep.DECODER, "allocate", ErrorCode.OUT_OF_MEMORY),
    Poison(PoisonedStep.DECODER, "memory-error", ErrorCode.OUT_OF_MEMORY),
    Poison(PoisonedStep.DECODER, "loop", ErrorCode.DECODE_CRASHED),
    Poison(PoisonedStep.BATCH, "segfault", ErrorCode.ATTEMPTS_EXHAUSTED),
    Poison(PoisonedStep.BATCH, "allocate", ErrorCode.ATTEMPTS_EXHAUSTED),
    Poison(PoisonedStep.BATCH, "memory-error", ErrorCode.OUT_OF_MEMORY),
    Poison(PoisonedStep.BATCH, "loop", ErrorCode.ATTEMPTS_EXHAUSTED),
    Poison(PoisonedStep.BATCH, "error", ErrorCode.INTERNAL),
    Poison(PoisonedStep.BATCH, "nan", ErrorCode.INTERNAL),
    Poison(PoisonedStep.BATCH, "device-lost", ErrorCode.ATTEMPTS_EXHAUSTED),
)
BY_NAME = {poison.name: poison for poison in POISONS}


def poison_in(data: bytes) -> Poison | None:
    """Return what a file carries."""
    return next((each for each in POISONS if _MARK + each.name.encode() in data), None)


def do_harm(harm: str) -> None:
    """Do what can be done without torch."""
    HARMS[harm]()


def _read_null() -> None:
    ctypes.string_at(0)


def _allocate() -> None:
    hoard = []
    while True:
        hoard.append(b"x" * (4 << 20))  # written to, so that it takes memory and not addresses alone


def _run_out() -> None:
    raise MemoryError


def _loop() -> None:
    while True:
        pass


def _err() -> None:
    raise RuntimeError("no such kernel")


HARMS: dict[str, Callable[[], None]] = {
    "segfault": _read_null,
    "allocate": _allocate,
    "memory-error": _run_out,
    "loop": _loop,
    "error": _err,
}
