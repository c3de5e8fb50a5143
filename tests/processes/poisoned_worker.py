"""The worker's application with flaws that poison finds: in its decoder, and in its U-Net.

Where TEST_GATE names a file, it has the gate of `gated_worker` too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.poison import POISONS, Place, Poison, do_harm
from worker import runtime
from worker.sandbox import Sandbox
from worker.tasks import app

if TYPE_CHECKING:  # torch is imported when the real worker imports it: a start is to look as it does
    from torch import Tensor

    from shared.settings import Settings
    from worker.model import Detector

__all__ = ["app"]

_load_detector = runtime.load_detector


def _load_flawed(settings: Settings) -> Detector:
    detector = _load_detector(settings)
    noise_map = detector.noise_map

    def flawed_noise_map(x: Tensor) -> Tensor:
        return _run(x, noise_map)

    detector.noise_map = flawed_noise_map  # type: ignore[method-assign]
    return detector


def _run(x: Tensor, noise_map: Callable[[Tensor], Tensor]) -> Tensor:
    import torch

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
    return next((each for each in POISONS if each.place is Place.BATCH and list(each.colour) == colour), None)


runtime.load_detector = _load_flawed
if "TEST_GATE" in os.environ:
    from tests.processes import gated_worker  # noqa: F401  # its import does it
Sandbox._entry = ("-m", "tests.processes.poisoned_child")
