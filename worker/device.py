"""Between the batcher and the networks: numpy on one side, torch on the other. Only analysis workers import it."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from worker.batcher import DeviceMemoryError, Finding, Floats, Watch
from worker.model.detector import Detector


class Device:
    """A detector as the batcher calls it: images in, findings out."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def __call__(self, images: Sequence[Floats]) -> list[Finding]:
        """Run images, each (3, S, S), in one pass; raise `DeviceMemoryError` where they do not fit."""
        try:
            detection = self._detector.detect(torch.from_numpy(np.stack(images)))
        except RuntimeError as error:
            if _is_memory(error):
                torch.cuda.empty_cache()  # does nothing without CUDA
                raise DeviceMemoryError from error
            raise
        means = detection.feature.mean(dim=1).numpy()
        parts = zip(detection.eps.numpy(), detection.logit[:, 0].tolist(), means, strict=True)
        return [Finding(eps, logit, mean) for eps, logit, mean in parts]


def pass_limit(seconds: float) -> Watch:
    """Return the watch that ends this process when a pass takes longer: a stuck device cannot be interrupted.

    The timer is a thread of the interpreter's own C code, so it also fires while a driver holds the interpreter's
    lock. It writes the stack of every thread to standard error and exits with 1; the leases of the jobs then end.
    """

    @contextmanager
    def watch() -> Iterator[None]:
        faulthandler.dump_traceback_later(seconds, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    return watch


def _is_memory(error: RuntimeError) -> bool:
    """Whether torch says that memory ran out; on a CPU its allocator has no exception class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
