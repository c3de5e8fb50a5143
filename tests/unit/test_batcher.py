"""How images share passes of the device, with a model function in place of the networks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest

from shared.errors import ErrorCode, JobError
from worker.batcher import Batcher, DeviceMemoryError, Finding, Floats, Notify

LONG, SOON = 20.0, 5.0  # seconds: never reached by a test that passes


Start = Callable[..., Batcher]


class Model:
    """Notes the sizes of its batches; each image's first number comes back as its logit."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.fits = 1000
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def __call__(self, images: Sequence[Floats], classifying: Notify) -> list[Finding]:
        self.entered.set()
        assert self.open.wait(LONG)
        classifying()
        self.batches.append(len(images))
        if len(images) > self.fits:
            raise DeviceMemoryError
        logits = [float(image.flat[0]) for image in images]
        if 666 in logits:
            raise RuntimeError("the device is on fire")
        return [Finding(np.zeros((3, 2, 2), np.float32), logit, np.zeros((1, 1), np.float32)) for logit in logits]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def start(model: Model) -> Iterator[Start]:
    started: list[Batcher] = []

    def make(max_batch: int = 4, wait_seconds: float = LONG) -> Batcher:
        batcher = Batcher(model, max_batch=max_batch, wait_seconds=wait_seconds)
        started.append(batcher)
        batcher.start()
        return batcher

    yield make
    model.open.set()
    for batcher in started:
        batcher.close()


def image(number: float) -> Floats:
    return np.full((3, 2, 2), number, np.float32)


def submit_together(batcher: Batcher, *numbers: float, alone: Sequence[float] = ()) -> list[Future[Finding]]:
    """As jobs do that are all on their way before the first arrives."""
    with batcher.approaching():
        return [batcher.submit(image(number), alone=number in alone) for number in numbers]


def logits(futures: Sequence[Future[Finding]]) -> list[float]:
    return [future.result(SOON).logit for future in futures]


def test_full_batch_runs_although_others_are_on_their_way(start: Start, model: Model):
    batcher = start(max_batch=3)
    with batcher.approaching():
        futures = [batcher.submit(image(number)) for number in (1, 2, 3)]
        assert logits(futures) == [1, 2, 3]
    assert model.batches == [3]


def test_batch_runs_when_its_oldest_image_has_waited_long_enough(start: Start, model: Model):
    batcher = start(wait_seconds=0.05)
    with batcher.approaching():
        began = time.monotonic()
        assert batcher.submit(image(1)).result(SOON).logit == 1
    assert time.monotonic() - began >= 0.05
    assert model.batches == [1]


def test_nobody_waits_when_nobody_is_on_their_way(start: Start, model: Model):
    assert start(wait_seconds=LONG).submit(image(1)).result(SOON).logit == 1


def test_image_waits_for_one_that_is_on_its_way(start: Start, model: Model):
    batcher = start()
    with batcher.approaching():
        first = batcher.submit(image(1))
        second = batcher.submit(image(2))
        assert not first.done()
    assert logits([first, second]) == [1, 2]
    assert model.batches == [2]


def test_more_images_than_a_batch_holds_run_in_order(start: Start, model: Model):
    batcher = start(max_batch=2)
    assert logits(submit_together(batcher, 1, 2, 3, 4, 5)) == [1, 2, 3, 4, 5]
    assert sorted(model.batches) == [1, 2, 2]


def test_job_that_must_be_alone_shares_its_batch_with_none(start: Start, model: Model):
    model.open.clear()
    batcher = start(max_batch=8)
    futures = submit_together(batcher, 0)
    assert model.entered.wait(SOON)  # the others gather behind this pass
    futures += submit_together(batcher, 1, 2, 3, 4, 5, alone=[3])
    model.open.set()
    assert logits(futures) == [0, 1, 2, 3, 4, 5]
    assert model.batches == [1, 2, 1, 2]


def test_batch_that_does_not_fit_runs_in_halves(start: Start, model: Model):
    model.fits = 2
    batcher = start(max_batch=8)
    assert logits(submit_together(batcher, *range(8))) == list(range(8))
    assert model.batches == [8, 4, 2, 2, 4, 2, 2]


def test_image_that_does_not_fit_alone_fails_for_lack_of_memory(start: Start, model: Model):
    model.fits = 0
    future = start().submit(image(1))
    with pytest.raises(JobError) as caught:
        future.result(SOON)
    assert caught.value.code == ErrorCode.OUT_OF_MEMORY


def test_device_error_fails_its_batch_retryably_and_the_next_batch_runs(start: Start, model: Model):
    batcher = start()
    for future in submit_together(batcher, 1, 666):
        with pytest.raises(JobError) as caught:
            future.result(SOON)
        assert (caught.value.code, caught.value.retryable) == (ErrorCode.INTERNAL, True)
    assert logits(submit_together(batcher, 7)) == [7]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_logit_that_is_no_number_is_a_failure_of_its_job_alone(start: Start, number: float):
    bad, good = submit_together(start(), number, 5)
    with pytest.raises(JobError) as caught:
        bad.result(SOON)
    assert caught.value.code == ErrorCode.INTERNAL
    assert good.result(SOON).logit == 5


def test_device_that_keeps_failing_is_given_up(model: Model):
    """A pass that succeeds in between shows that it was the images."""
    broken = threading.Event()
    batcher = Batcher(model, max_batch=1, wait_seconds=0, on_broken=broken.set)
    batcher.start()
    for number in (666, 666, 1, 666, 666):
        batcher.submit(image(number)).exception(SOON)
    assert not broken.is_set()
    batcher.submit(image(666)).exception(SOON)
    assert broken.is_set()
    batcher.close()


def test_each_image_of_a_pass_is_told_when_the_classifier_begins(start: Start, model: Model):
    batcher, told = start(max_batch=2), threading.Semaphore(0)
    model.open.clear()
    futures = [batcher.submit(image(number), on_classifying=told.release) for number in (1, 2)]
    assert model.entered.wait(SOON)
    assert not told.acquire(blocking=False)
    model.open.set()
    logits(futures)
    assert told._value == 2


def test_thread_that_ends_against_all_rules_is_not_silent():
    """Jobs that wait for it would keep their leases for ever."""

    def exits(_: Sequence[Floats], _classifying: Notify) -> list[Finding]:
        raise SystemExit

    broken = threading.Event()
    batcher = Batcher(exits, max_batch=1, wait_seconds=0, on_broken=broken.set)
    batcher.start()
    batcher.submit(image(1))
    assert broken.wait(SOON)
    batcher.close()


def test_canceled_image_does_not_reach_the_device(start: Start, model: Model):
    model.open.clear()
    batcher = start(max_batch=1)
    running = batcher.submit(image(1))
    assert model.entered.wait(SOON)
    dropped, kept = batcher.submit(image(2)), batcher.submit(image(3))
    assert dropped.cancel()
    model.open.set()
    assert logits([running, kept]) == [1, 3]
    assert model.batches == [1, 1]


def test_closing_cancels_what_still_waits(start: Start, model: Model):
    model.open.clear()
    batcher = start(max_batch=1)
    running = batcher.submit(image(1))
    assert model.entered.wait(SOON)
    waiting = batcher.submit(image(2))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    model.open.set()
    closing.join(SOON)
    assert running.result(SOON).logit == 1
    with pytest.raises(CancelledError):
        waiting.result(SOON)
