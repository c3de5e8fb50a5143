"""The one thread that owns the device: it gathers images of several jobs into a batch and runs them in one pass."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import structlog
from numpy.typing import NDArray

from shared.domain import AttemptId
from shared.errors import DistildireError, ErrorCode, JobError

Floats = NDArray[np.float32]

_log = structlog.get_logger(__name__)


class DeviceMemoryError(DistildireError):
    """The device does not have enough memory for the batch."""


class DeviceLostError(DistildireError):
    """No later pass of this process can succeed on the device."""


class PassFailedError(DistildireError):
    """The device fails this image although it runs a blank one. Another device may succeed."""

    def __init__(self, error: JobError) -> None:
        """Make the error of an image. Its job fails with `error` if no other device can run the image."""
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True)
class PassResult:
    """What the networks return for one image."""

    eps: Floats
    """First-step noise, (3, S, S)."""
    logit: float
    """The logit of the class "fake"."""
    feature_mean: Floats
    """The student's feature map, averaged over its channels, (h, w)."""
    device_seconds: float = 0.0
    """The duration of the pass, divided by the number of its images; the batcher fills it in."""

    @property
    def finite(self) -> bool:
        """Whether all its values are finite."""
        return math.isfinite(self.logit) and bool(np.isfinite(self.feature_mean).all() and np.isfinite(self.eps).all())


Notify = Callable[[], None]
#: Runs images, each (3, S, S), through the networks; returns their results in the same order. Calls its second argument
#: when the noise maps are computed and the classifier begins.
Infer = Callable[[Sequence[Floats], Notify], Sequence[PassResult]]
#: Entered around each pass, with the attempts whose images are in it.
Watch = Callable[[Sequence[AttemptId]], AbstractContextManager[None]]
#: Ends this process because of a pass with images of these attempts; none where no attempt is to blame.
GiveUp = Callable[[Sequence[AttemptId]], None]


@dataclass(frozen=True)
class _Ticket:
    """An image that waits for the device."""

    image: Floats
    attempt_id: AttemptId
    since: float
    on_classifying: Notify
    future: Future[PassResult]


class Batcher:
    """Runs images through the networks in batches.

    A batch runs when it is full, when its oldest image has waited for `wait_seconds`, or when no other image is
    approaching. Only this thread calls `infer`.
    """

    def __init__(
        self,
        infer: Infer,
        *,
        max_batch: int,
        wait_seconds: float,
        watch: Watch = lambda _: nullcontext(),
        give_up: GiveUp = lambda _: None,
    ) -> None:
        """Hold no image yet; `start` starts the thread.

        `give_up` is called when the device is lost or broken, or when the thread cannot go on. One failed image does
        not show that the device is broken: a blank image is run after it.
        """
        self._infer = infer
        self._give_up = give_up
        self._in_pass: list[AttemptId] = []
        self._max_batch = max_batch
        self._wait_seconds = wait_seconds
        self._watch = watch
        self._changed = threading.Condition()
        self._waiting: deque[_Ticket] = deque()
        self._on_their_way = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End after the pass that runs now; cancel the futures of the images that still wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        for ticket in self._waiting:
            ticket.future.cancel()

    @contextmanager
    def approaching(self) -> Iterator[None]:
        """Announce an image that is being fetched and decoded: a batch waits only while an image is announced."""
        with self._changed:
            self._on_their_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._on_their_way -= 1
                self._changed.notify_all()

    def submit(
        self, image: Floats, attempt_id: AttemptId, *, on_classifying: Notify = lambda: None
    ) -> Future[PassResult]:
        """Queue the image, (3, S, S) in [-1, 1], of an attempt at a job.

        The future ends with the result or a `PassFailedError`; canceling it drops an image that does not run yet. The
        batcher's thread calls `on_classifying` when the image's pass reaches the classifier.
        """
        return self.submit_all([image], attempt_id, on_classifying=on_classifying)[0]

    def submit_all(
        self, images: Sequence[Floats], attempt_id: AttemptId, *, on_classifying: Notify = lambda: None
    ) -> list[Future[PassResult]]:
        """Queue several images of one attempt next to each other, each as `submit` does."""
        futures: list[Future[PassResult]] = [Future() for _ in images]
        since = time.monotonic()
        with self._changed:
            for image, future in zip(images, futures, strict=True):
                self._waiting.append(_Ticket(image, attempt_id, since, on_classifying, future))
            self._changed.notify_all()
        return futures

    def _run(self) -> None:
        try:
            while batch := self._gather():
                running = [ticket for ticket in batch if ticket.future.set_running_or_notify_cancel()]
                if running:
                    self._serve(running)
        except BaseException:  # noqa: BLE001  # without this thread every job would wait until its deadline
            #: The thread that owns the device ended, as it does when the device is lost. The worker returns its jobs to
            #: the queue and ends with status 1.
            _log.critical("batcher_ended", exc_info=True)
            self._give_up(self._in_pass)

    def _gather(self) -> list[_Ticket]:
        """Wait for a batch and take it off the queue; empty when closed."""
        with self._changed:
            while not self._closed and (seconds := self._seconds_left()) != 0:
                self._changed.wait(seconds)
            return [] if self._closed else self._take()

    def _seconds_left(self) -> float | None:
        """Return for how many seconds the batch may still wait; None if no image waits."""
        if not self._waiting:
            return None
        if len(self._waiting) >= self._max_batch or not self._on_their_way:
            return 0
        return max(0, self._waiting[0].since + self._wait_seconds - time.monotonic())

    def _take(self) -> list[_Ticket]:
        batch = [self._waiting.popleft()]
        while self._waiting and len(batch) < self._max_batch:
            batch.append(self._waiting.popleft())
        return batch

    def _serve(self, tickets: list[_Ticket]) -> None:
        """Run a batch. If it fails or exceeds the memory, run it again as two halves: one image may be the cause."""

        def tell() -> None:
            for ticket in tickets:
                ticket.on_classifying()

        self._in_pass = list(dict.fromkeys(ticket.attempt_id for ticket in tickets))  # a job may have several images
        try:
            with self._watch(self._in_pass):
                began = time.monotonic()
                results = self._infer([ticket.image for ticket in tickets], tell)
                share = (time.monotonic() - began) / len(tickets)
                results = [replace(result, device_seconds=share) for result in results]
            answers = list(zip(tickets, map(_checked, results), strict=True))
        except (DeviceMemoryError, MemoryError):
            #: A batch did not fit into the device's memory and runs again in halves. If it happens often, lower
            #: `MAX_BATCH`.
            _log.warning("device_out_of_memory", batch=len(tickets))
            self._serve_halves(tickets, JobError(ErrorCode.OUT_OF_MEMORY))
        except DeviceLostError:
            raise  # ends this thread, which ends the process
        except Exception:  # noqa: BLE001  # a pass may fail in any way, and this thread must run the next
            #: A pass of the device failed. A batch runs again in halves, so that one image fails alone.
            _log.exception("device_failed", batch=len(tickets))
            self._serve_halves(tickets, JobError(ErrorCode.INTERNAL, "The device failed. Submit the image again."))
        else:
            self._answer(answers)
        self._in_pass = []

    def _answer(self, answers: Sequence[tuple[_Ticket, PassResult | JobError]]) -> None:
        for ticket, answer in answers:
            if isinstance(answer, PassResult):
                ticket.future.set_result(answer)
        for ticket, answer in answers:
            if isinstance(answer, JobError):
                self._refuse(ticket, answer)

    def _refuse(self, ticket: _Ticket, why: JobError) -> None:
        """Fail an image, unless the device fails a blank image too.

        Raises:
            DeviceLostError: the device is broken. It would fail every image that waits, through no fault of theirs.

        """
        self._in_pass = []
        if not self._runs_a_blank(ticket.image):
            #: The device failed an image and then a blank one, so it is broken. The worker returns its jobs to the
            #: queue and ends with status 1.
            _log.critical("device_broken")
            raise DeviceLostError
        ticket.future.set_exception(PassFailedError(why))

    def _runs_a_blank(self, like: Floats) -> bool:
        try:
            with self._watch([]):
                (result,) = self._infer([np.zeros_like(like)], lambda: None)
        except DeviceLostError:
            raise
        except Exception:  # noqa: BLE001  # however it fails, no image is the cause
            _log.exception("device_failed", batch=0)
            return False
        return result.finite

    def _serve_halves(self, tickets: list[_Ticket], why: JobError) -> None:
        if len(tickets) == 1:
            self._refuse(tickets[0], why)
            return
        middle = len(tickets) // 2
        self._serve(tickets[:middle])
        # A job fails with its first image that fails: its other images must not run on in the batches of other jobs.
        failed = {ticket.attempt_id for ticket in tickets[:middle] if ticket.future.exception() is not None}
        rest = [ticket for ticket in tickets[middle:] if ticket.attempt_id not in failed]
        for ticket in tickets[middle:]:
            if ticket.attempt_id in failed:
                ticket.future.set_exception(PassFailedError(why))
        if rest:
            self._serve(rest)


def _checked(result: PassResult) -> PassResult | JobError:
    """Return the result; an error if a value is not finite, which must never become a verdict."""
    if result.finite:
        return result
    #: The model gave no number for an image, and its job fails as `internal`. If it happens often, run `distildire
    #: models verify`.
    _log.error("finding_not_finite", logit=result.logit)
    return JobError(ErrorCode.INTERNAL, "The model gave no number for this image. Tell the operator.")
