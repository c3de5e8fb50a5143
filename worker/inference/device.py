"""Between the batcher and the networks: numpy on one side, torch on the other. Only analysis workers import it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worker.inference.batcher import DeviceLostError, DeviceMemoryError, Finding, Floats, Notify
from worker.model import self_test
from worker.model.detector import Detector

#: A pass that takes longer has filled the device: one more image would only keep the others waiting.
PASS_SECONDS = 2.0


class Device:
    """A detector as the batcher calls it: images in, findings out."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def __call__(self, images: Sequence[Floats], classifying: Notify) -> list[Finding]:
        """Run images, each (3, S, S), in one pass, and call `classifying` between the two networks.

        Raises:
            DeviceMemoryError: they do not fit.
            DeviceLostError: no pass of this process can succeed any more.

        """
        x = torch.from_numpy(np.stack(images))
        try:
            eps = self._detector.noise_map(x)
            noise = eps.cpu().numpy()  # waits for the device
            classifying()
            output = self._detector.classify(x, eps)
            logits, means = output.logit[:, 0].tolist(), output.feature.mean(dim=1).cpu().numpy()
        except RuntimeError as error:
            if _is_memory(error):
                torch.cuda.empty_cache()  # does nothing without CUDA
                raise DeviceMemoryError from error
            if _is_lost(error):
                raise DeviceLostError from error
            raise
        return [Finding(*found) for found in zip(noise, logits, means, strict=True)]


@dataclass(frozen=True)
class BatchPlan:
    """What was learnt of a device when it warmed up."""

    batch: int
    """How many images one pass should take."""
    pass_seconds: float
    """How long such a pass takes at most."""


def settle_batch(detector: Detector, most: int) -> BatchPlan:
    """Warm the detector up; return what a pass should take, at most `most` images.

    As many as run in `PASS_SECONDS`, and fit into memory. On a CPU the published model takes seconds for one image and
    gains nothing from more: a batch of eight would let all eight wait for the last, and every start of a worker too.

    Raises:
        SelfTestError: the networks do not compute what their card says.
    """
    self_test.check(detector)  # the first pass sets up kernels, too, which on a GPU takes longer than the pass
    began = time.monotonic()
    detector.warm_up(1)
    seconds = time.monotonic() - began
    batch = max(1, min(most, int(PASS_SECONDS / seconds)))
    while batch > 1 and not _fits(detector, batch):
        batch //= 2
    return BatchPlan(batch, batch * seconds)  # never longer than one after the other


def _fits(detector: Detector, batch: int) -> bool:
    try:
        detector.warm_up(batch)
    except RuntimeError as error:
        if _is_memory(error):
            torch.cuda.empty_cache()
            return False
        raise
    return True


def _is_memory(error: RuntimeError) -> bool:
    """Whether torch says that memory ran out: not all of its allocators have an exception class for it."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    message = str(error)
    return any(words in message for words in ("can't allocate memory", "CUDA error: out of memory", "_ALLOC_FAILED"))


def _is_lost(error: RuntimeError) -> bool:
    """Whether CUDA's context is gone, as after an illegal access or a failed assertion on the device.

    Every later call then fails too, and no call mends it: only another process gets another context.
    """
    if isinstance(error, torch.AcceleratorError):
        return True
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's
        return False
    try:
        torch.cuda.synchronize()  # cuDNN and cuBLAS call the error by names of their own
    except RuntimeError:
        return True
    return False
