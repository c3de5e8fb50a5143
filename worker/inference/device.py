"""Connects the batcher, which knows numpy, with the networks, which know torch. Only analysis workers import it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worker.inference.batcher import DeviceLostError, DeviceMemoryError, Floats, Notify, PassResult
from worker.model import self_test
from worker.model.detector import Detector

#: A pass that takes so long fills the device: one more image would only delay the others.
PASS_SECONDS = 2.0


class Device:
    """Runs a detector on batches, as the batcher calls it."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def __call__(self, images: Sequence[Floats], classifying: Notify) -> list[PassResult]:
        """Run images, each (3, S, S), in one pass, and call `classifying` between the two networks.

        Raises:
            DeviceMemoryError: they do not fit.
            DeviceLostError: no later pass of this process can succeed.

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
        return [PassResult(*found) for found in zip(noise, logits, means, strict=True)]


@dataclass(frozen=True)
class BatchPlan:
    """How large the passes of a device should be, measured while it warmed up."""

    batch: int
    """How many images one pass should take."""
    pass_seconds: float
    """How long such a pass takes at most."""


def settle_batch(detector: Detector, most: int) -> BatchPlan:
    """Warm the detector up; return the plan of its passes, of at most `most` images.

    A pass takes as many images as run in `PASS_SECONDS` and fit into memory. On a CPU the published model needs seconds
    for one image, and a batch is no faster: all its images, and each start of a worker, would wait for the last.

    Raises:
        SelfTestError: the networks do not compute what their card says.
    """
    self_test.check(detector)  # also sets up the kernels, which on a GPU takes longer than a pass
    began = time.monotonic()
    detector.warm_up(1)
    seconds = time.monotonic() - began
    batch = max(1, min(most, int(PASS_SECONDS / seconds)))
    while batch > 1 and not _fits(detector, batch):
        batch //= 2
    return BatchPlan(batch, batch * seconds)  # a batch takes no longer than its images one after the other


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
    """Return whether torch ran out of memory: not all of its allocators have an exception class for that."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    message = str(error)
    return any(words in message for words in ("can't allocate memory", "CUDA error: out of memory", "_ALLOC_FAILED"))


def _is_lost(error: RuntimeError) -> bool:
    """Return whether CUDA's context is lost, as after an illegal access or a failed assertion on the device.

    Every later call of this process then fails too: only another process gets another context.
    """
    if isinstance(error, torch.AcceleratorError):
        return True
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's
        return False
    try:
        torch.cuda.synchronize()  # cuDNN and cuBLAS report the error under other names
    except RuntimeError:
        return True
    return False
