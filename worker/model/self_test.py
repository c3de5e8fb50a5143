"""The self-test: it compares the networks' output for a fixed input with the output that the card states.

Each network runs once. The noise map is compared at a few places, with a tolerance for the rounding of the U-Net's
number format. The student's second input is fixed noise instead of the U-Net's noise map or a DIRE image. It computes
in float32 in every precision, so its logit must be the same: rounding in the U-Net cannot hide a wrong student.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from worker.model.cards.editing import write_section
from worker.model.cards.registry import ModelError
from worker.model.cards.schema import SELF_TEST_PLACES, Format, SelfTest
from worker.model.detector import Detector

_SEED = 256
EPS_TOLERANCE: dict[Format, float] = {"fp32": 1e-4, "fp16": 0.01, "bf16": 0.05}
"""Highest relative error ‖eps − expected‖ / ‖expected‖: several times what formats and kernels differ by."""
LOGIT_TOLERANCE = 1e-3
"""Relative to the logit; absolute if the logit is below 1."""


class SelfTestError(ModelError):
    """The networks' output differs from what their card states."""


def answer(detector: Detector) -> SelfTest:
    """Run both networks once and return their output for the fixed input."""
    side = detector.card.image_size
    stream = np.random.RandomState(_SEED)  # gives the same numbers in all releases of NumPy
    x = stream.uniform(-0.9, 0.9, (1, 3, side, side))  # not black or white: there, clipping alone would determine eps
    noise = stream.standard_normal(x.shape)
    places = stream.randint(0, x.size, SELF_TEST_PLACES)
    eps = detector.noise_map(torch.from_numpy(x)).flatten()[places]
    logit = detector.answer_to(torch.from_numpy(x), torch.from_numpy(noise)).logit
    return SelfTest.model_construct(eps=tuple(eps.tolist()), logit=logit.item())  # not validated: it may hold NaN


def check(detector: Detector) -> bool:
    """Run the self-test. Return whether the card has one; the networks run in any case, which warms them up.

    Raises:
        SelfTestError: the networks' output differs from what the card states.
    """
    found, expected = answer(detector), detector.card.self_test
    if expected is None:
        return False
    error = float(np.linalg.norm(np.subtract(found.eps, expected.eps)) / np.linalg.norm(expected.eps))
    tolerance = EPS_TOLERANCE[detector.precision]
    if not error <= tolerance:  # true for NaN too
        raise _failure(detector, f"the noise map is off by {error:.2g} of its size, where {tolerance:.2g} is allowed")
    tolerance = LOGIT_TOLERANCE * max(1.0, abs(expected.logit))
    if not abs(found.logit - expected.logit) <= tolerance:
        raise _failure(detector, f"the logit is {found.logit:.4f} instead of {expected.logit:.4f} ± {tolerance:.2g}")
    return True


def record(detector: Detector, card: Path) -> None:
    """Write this detector's output into the self-test of the card file at `card`; nothing else in it changes.

    Raises:
        ModelError: the output is not finite; the detector does not run in float32, which a reference must; or the file
            cannot be written, and is unchanged.
    """
    found = answer(detector)
    if detector.precision != "fp32" or not np.isfinite([*found.eps, found.logit]).all():
        raise ModelError(f"{detector.card.name} cannot be recorded in {detector.precision}: its output is {found}.")
    write_section(
        card,
        ("self_test",),
        {"eps": [_six_digits(value) for value in found.eps], "logit": _six_digits(found.logit)},
        "What the networks answer to a fixed picture: `distildire models verify --record`.",
    )


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def _failure(detector: Detector, what: str) -> SelfTestError:
    where = f"in {detector.precision} on {detector.device}"
    return SelfTestError(
        f"{detector.card.name} fails its self-test {where}: {what}. Its weights are not those that the card was "
        "written for, or this device computes wrongly. Install the right weights, or try another device. If the "
        f"weights were changed on purpose, run `distildire models verify {detector.card.name} --record`."
    )
