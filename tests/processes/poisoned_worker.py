"""The worker's application with flaws that poison finds: in its decoder, and in its U-Net.

Where TEST_GATE names a file, it has the gate of `gated_worker` too; while the file TEST_BROKEN is there, its device
fails every pass.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.poison import POISONS, Poison, PoisonedStep, do_harm
from worker.__main__ import main
from worker.jobs import service
from worker.sandbox.sandbox import Sandbox
from worker.tasks import app

if TYPE_CHECKING:  # torch is imported when the real worker imports it: a start is to look as it does
    from torch import Tensor

    from shared.settings import AnalysisSettings
    from worker.model import Detector

__all__ = ["app"]

_load_detector = service.load_detector
_broken = Path(os.environ.get("TEST_BROKEN", ""))


def _load_flawed(settings: AnalysisSettings) -> Detector:
    detector = _load_detector(settings)
    noise_map = detector.noise_map

    def flawed_noise_map(x: Tensor) -> Tensor:
        return _run(x, noise_map)

    detector.noise_map = flawed_noise_map  # type: ignore[method-assign]
    return detector


def _run(x: Tensor, noise_map: Callable[[Tensor], Tensor]) -> Tensor:
    import torch

    if _broken.is_file():
        do_harm("error")
    found = [_poison_in(image) for image in x]
    for poison in found:
        if poison is not None and poison.harm == "device-lost":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if poison is not None and poison.harm != "nan":
            do_harm(poison.harm)
    eps = noise_map(x).clone()  # one that may be written to
    for number, poison in enumerate(found):
        if poison is not None:
            eps[number, 0, 0, 0] = torch.nan
    return eps


def _poison_in(image: Tensor) -> Poison | None:
    """Know a picture of one colour by it."""
    lowest, highest = image.amin(dim=(1, 2)), image.amax(dim=(1, 2))
    if (highest - lowest).max() > 1e-3:
        return None
    colour = ((lowest + 1) * 127.5).round().int().tolist()
    return next((each for each in POISONS if each.place is PoisonedStep.BATCH and list(each.colour) == colour), None)


service.load_detector = _load_flawed
if "TEST_GATE" in os.environ:
    from tests.processes import gated_worker  # noqa: F401  # its import does it
Sandbox.entry = ("-m", "tests.processes.poisoned_child")

if __name__ == "__main__":
    main(sys.argv[1:])
