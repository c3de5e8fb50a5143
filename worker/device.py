"""Between the batcher and the networks: numpy on one side, torch on the other. Only analysis workers import it."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import structlog
import torch

from worker.batcher import DeviceMemoryError, Finding, Floats, Notify, Watch
from worker.model.detector import Detector

#: A pass that takes longer has filled the device: one more image would only keep the others waiting.
PASS_SECONDS = 2.0
#: How much later the watch ends a process in which no Python runs any more.
_LOCKED_SECONDS = 5.0

_log = structlog.get_logger(__name__)


class Device:
    """A detector as the batcher calls it: images in, findings out."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def __call__(self, images: Sequence[Floats], classifying: Notify) -> list[Finding]:
        """Run images, each (3, S, S), in one pass, and call `classifying` between the two networks.

        Raises:
            DeviceMemoryError: they do not fit.

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
            raise
        return [Finding(*found) for found in zip(noise, logits, means, strict=True)]


def settle_batch(detector: Detector, most: int) -> int:
    """Warm the detector up; return how many images one pass should take, at most `most`.

    As many as run in `PASS_SECONDS`, and fit into memory. On a CPU the published model takes seconds for one image and
    gains nothing from more: a batch of eight would let all eight wait for the last, and every start of a worker too.
    """
    detector.warm_up(1)  # sets up kernels, which on a GPU takes longer than the pass
    began = time.monotonic()
    detector.warm_up(1)
    batch = max(1, min(most, int(PASS_SECONDS / (time.monotonic() - began))))
    while batch > 1 and not _fits(detector, batch):
        batch //= 2
    return batch


def pass_limit(seconds: float) -> Watch:
    """Return the watch that ends this process when a pass takes longer: a stuck device cannot be interrupted.

    It logs where the pass hangs and exits with 1; the leases of the jobs then end. Where a driver holds the
    interpreter's lock, no Python runs any more: then a timer in the interpreter's own C code does the same, later.
    That one alone would not do: it reads the frames of threads that run on, which can crash.
    """

    @contextmanager
    def watch() -> Iterator[None]:
        timer = threading.Timer(seconds, _end_process, [seconds, threading.get_ident()])
        timer.daemon = True
        timer.start()
        faulthandler.dump_traceback_later(seconds + _LOCKED_SECONDS, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            timer.cancel()

    return watch


def _end_process(seconds: float, stuck_thread: int) -> None:
    stack = "".join(traceback.format_stack(sys._current_frames()[stuck_thread]))  # noqa: SLF001  # the documented way
    _log.critical("device_stuck", seconds=seconds, stack=stack)
    os._exit(1)


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
    """Whether torch says that memory ran out; on a CPU its allocator has no exception class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
