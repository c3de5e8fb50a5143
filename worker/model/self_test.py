"""The self-test: a fixed picture, and whether the networks answer to it as their card says.

One pass of each network. The noise map is compared at a few places, within what the U-Net's number format loses. The
student is shown fixed noise in the place of the U-Net's noise map or the DIRE image: it computes in float32 in every
precision, so its logit must come out the same, and what bfloat16 does to the U-Net cannot hide a wrong student.
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
"""Relative error ‖eps − expected‖ / ‖expected‖: some times what the formats cost, other kernels included."""
LOGIT_TOLERANCE = 1e-3
"""Of the logit, or of 1 where it is less than that."""


class SelfTestError(ModelError):
    """The networks do not compute what their card says."""


def answer(detector: Detector) -> SelfTest:
    """Run both networks once and return what they answer to the fixed picture."""
    side = detector.card.image_size
    stream = np.random.RandomState(_SEED)  # frozen across releases of NumPy
    x = stream.uniform(-0.9, 0.9, (1, 3, side, side))  # nowhere black or white, where clipping alone would decide eps
    noise = stream.standard_normal(x.shape)
    places = stream.randint(0, x.size, SELF_TEST_PLACES)
    eps = detector.noise_map(torch.from_numpy(x)).flatten()[places]
    logit = detector.answer_to(torch.from_numpy(x), torch.from_numpy(noise)).logit
    return SelfTest.model_construct(eps=tuple(eps.tolist()), logit=logit.item())  # not validated: it may hold NaN


def check(detector: Detector) -> bool:
    """Run the self-test; return whether the card has one. The pass is made in any case, as a first one that warms up.

    Raises:
        SelfTestError: the networks answer otherwise than the card says.
    """
    found, expected = answer(detector), detector.card.self_test
    if expected is None:
        return False
    error = float(np.linalg.norm(np.subtract(found.eps, expected.eps)) / np.linalg.norm(expected.eps))
    tolerance = EPS_TOLERANCE[detector.precision]
    if not error <= tolerance:  # NaN is no answer
        raise _failure(detector, f"the noise map is off by {error:.2g} of its size, where {tolerance:.2g} is allowed")
    tolerance = LOGIT_TOLERANCE * max(1.0, abs(expected.logit))
    if not abs(found.logit - expected.logit) <= tolerance:
        raise _failure(detector, f"the logit is {found.logit:.4f} instead of {expected.logit:.4f} ± {tolerance:.2g}")
    return True


def record(detector: Detector, card: Path) -> None:
    """Write into the card file at `card` what this detector answers; all else in the file stays as it is.

    Raises:
        ModelError: the answer is not finite, or the detector does not compute in float32, as what others are held to;
            or the file cannot be written, and is as it was.
    """
    found = answer(detector)
    if detector.precision != "fp32" or not np.isfinite([*found.eps, found.logit]).all():
        raise ModelError(f"{detector.card.name} cannot be recorded in {detector.precision}: its answer is {found}.")
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
        "written for, or this device computes wrongly. Put the right weights in their place, try another device; if "
        f"the weights were changed on purpose, run `distildire models verify {detector.card.name} --record`."
    )
