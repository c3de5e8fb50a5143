"""How images share passes of the device, with a model function in place of the networks."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from shared.domain import AttemptId
from shared.errors import ErrorCode, JobError
from worker.inference.batcher import (
    Batcher,
    DeviceLostError,
    DeviceMemoryError,
    Floats,
    Infer,
    Notify,
    PassFailedError,
    PassResult,
)

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

    def __call__(self, images: Sequence[Floats], classifying: Notify) -> list[PassResult]:
        self.entered.set()
        assert self.open.wait(LONG)
        classifying()
        self.batches.append(len(images))
        if len(images) > self.fits:
            raise DeviceMemoryError
        logits = [float(image.flat[0]) for image in images]
        if 666 in logits:
            raise RuntimeError("the device is on fire")
        if 667 in logits:
            raise DeviceLostError
        return [PassResult(np.zeros((3, 2, 2), np.float32), logit, np.zeros((1, 1), np.float32)) for logit in logits]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def start(model: Model) -> Iterator[Start]:
    started: list[Batcher] = []

    def make(max_batch: int = 4, wait_seconds: float = LONG, infer: Infer = model, **more: Any) -> Batcher:
        batcher = Batcher(infer, max_batch=max_batch, wait_seconds=wait_seconds, **more)
        started.append(batcher)
        batcher.start()
        return batcher

    yield make
    model.open.set()
    for batcher in started:
        batcher.close()


def image(number: float) -> Floats:
    return np.full((3, 2, 2), number, np.float32)


def attempt_id(number: float) -> AttemptId:
    """Of a job that is known by its image's number."""
    return AttemptId(UUID(int=int(number)), 1)


def submit(batcher: Batcher, number: float) -> Future[PassResult]:
    return batcher.submit(image(number), attempt_id(number) if math.isfinite(number) else attempt_id(0))


def submit_together(batcher: Batcher, *numbers: float) -> list[Future[PassResult]]:
    """As jobs do that are all on their way before the first arrives."""
    with batcher.approaching():
        return [submit(batcher, number) for number in numbers]


def logits(futures: Sequence[Future[PassResult]]) -> list[float]:
    return [future.result(SOON).logit for future in futures]


def test_full_batch_runs_although_others_are_on_their_way(start: Start, model: Model):
    batcher = start(max_batch=3)
    with batcher.approaching():
        futures = [submit(batcher, number) for number in (1, 2, 3)]
        assert logits(futures) == [1, 2, 3]
    assert model.batches == [3]


def test_batch_runs_when_its_oldest_image_has_waited_long_enough(start: Start, model: Model):
    batcher = start(wait_seconds=0.05)
    with batcher.approaching():
        began = time.monotonic()
        assert submit(batcher, 1).result(SOON).logit == 1
    assert time.monotonic() - began >= 0.05
    assert model.batches == [1]


def test_nobody_waits_when_nobody_is_on_their_way(start: Start, model: Model):
    assert submit(start(wait_seconds=LONG), 1).result(SOON).logit == 1


def test_image_waits_for_one_that_is_on_its_way(start: Start, model: Model):
    batcher = start()
    with batcher.approaching():
        first = submit(batcher, 1)
        second = submit(batcher, 2)
        assert not first.done()
    assert logits([first, second]) == [1, 2]
    assert model.batches == [2]


def test_more_images_than_a_batch_holds_run_in_order(start: Start, model: Model):
    batcher = start(max_batch=2)
    assert logits(submit_together(batcher, 1, 2, 3, 4, 5)) == [1, 2, 3, 4, 5]
    assert sorted(model.batches) == [1, 2, 2]


def test_batch_that_does_not_fit_runs_in_halves(start: Start, model: Model):
    model.fits = 2
    batcher = start(max_batch=8)
    assert logits(submit_together(batcher, *range(8))) == list(range(8))
    assert model.batches == [8, 4, 2, 2, 4, 2, 2]


def reason(future: Future[PassResult]) -> JobError:
    """Why an image failed on its device."""
    failed = future.exception(SOON)
    assert isinstance(failed, PassFailedError)
    return failed.error


def test_image_that_does_not_fit_alone_fails_for_lack_of_memory(start: Start, model: Model):
    def run(images: Sequence[Floats], classifying: Notify) -> list[PassResult]:
        if any(image.flat[0] for image in images):
            raise DeviceMemoryError
        return model(images, classifying)

    assert reason(submit(start(infer=run), 1)).code == ErrorCode.OUT_OF_MEMORY


def test_image_that_fails_its_pass_fails_alone_and_retryably(start: Start, model: Model):
    culprit, *others = submit_together(start(), 666, 1, 2, 3)
    why = reason(culprit)
    assert (why.code, why.retryable) == (ErrorCode.INTERNAL, True)
    assert logits(others) == [1, 2, 3]
    assert model.batches == [4, 2, 1, 1, 1, 2]  # the third of one is blank


def test_image_that_takes_all_memory_fails_alone(start: Start, model: Model):
    """As Python says it, and not the device."""
    usual = model.__call__

    def run(images: Sequence[Floats], classifying: Notify) -> list[PassResult]:
        if any(image.flat[0] == 2 for image in images):
            raise MemoryError
        return usual(images, classifying)

    batcher = start(infer=run)
    first, culprit, third = submit_together(batcher, 1, 2, 3)
    assert reason(culprit).code == ErrorCode.OUT_OF_MEMORY
    assert logits([first, third]) == [1, 3]


def test_device_that_is_lost_ends_all_with_the_jobs_of_that_pass_named(start: Start):
    given_up: queue.SimpleQueue[Sequence[AttemptId]] = queue.SimpleQueue()
    futures = submit_together(start(give_up=given_up.put), 1, 667)
    assert given_up.get(timeout=SOON) == [attempt_id(1), attempt_id(667)]
    assert not any(future.done() for future in futures)  # that is for the process's end to settle


def test_each_pass_is_watched_with_the_jobs_in_it(start: Start):
    watched: list[Sequence[AttemptId]] = []

    @contextmanager
    def watch(attempts: Sequence[AttemptId]) -> Iterator[None]:
        watched.append(attempts)
        yield

    batcher = start(max_batch=2, watch=watch)
    logits(submit_together(batcher, 1, 2))
    logits(submit_together(batcher, 3))
    assert watched == [[attempt_id(1), attempt_id(2)], [attempt_id(3)]]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_logit_that_is_no_number_is_a_failure_of_its_job_alone(start: Start, number: float):
    bad, good = submit_together(start(), number, 5)
    assert reason(bad).code == ErrorCode.INTERNAL
    assert good.result(SOON).logit == 5


def raises(_: Sequence[Floats]) -> list[PassResult]:
    raise RuntimeError("the device is on fire")


def has_no_memory(_: Sequence[Floats]) -> list[PassResult]:
    raise DeviceMemoryError


def finds_nothing(images: Sequence[Floats]) -> list[PassResult]:
    nothing = np.full((3, 2, 2), math.nan, np.float32)
    return [PassResult(nothing, math.nan, nothing[0]) for _ in images]


@pytest.mark.parametrize("failing", [raises, has_no_memory, finds_nothing])
def test_device_that_fails_a_blank_image_too_is_given_up(
    start: Start, failing: Callable[[Sequence[Floats]], list[PassResult]]
):
    given_up: queue.SimpleQueue[Sequence[AttemptId]] = queue.SimpleQueue()
    future = submit(start(infer=lambda images, _: failing(images), give_up=given_up.put), 1)
    assert given_up.get(timeout=SOON) == []  # no job's doing
    assert not future.done()  # that is for the process's end to settle


def test_device_that_fails_images_and_no_blank_one_works_on(start: Start):
    given_up: list[Sequence[AttemptId]] = []
    batcher = start(max_batch=1, give_up=given_up.append)
    for job, number in enumerate((666, 666, 666, 666)):
        reason(batcher.submit(image(number), attempt_id(job)))
    assert submit(batcher, 1).result(SOON).logit == 1
    assert not given_up


@pytest.mark.parametrize("most", [1, 8])
def test_one_job_with_several_images_does_not_make_the_device_seem_broken(model: Model, most: int):
    given_up: list[Sequence[AttemptId]] = []
    batcher = Batcher(model, max_batch=most, wait_seconds=0, give_up=given_up.append)
    futures = batcher.submit_all([image(666)] * 5, attempt_id(1))
    batcher.start()
    assert {reason(future).code for future in futures} == {ErrorCode.INTERNAL}
    assert not given_up
    batcher.close()


def test_a_job_that_failed_with_one_image_is_run_no_further(model: Model):
    batcher = Batcher(model, max_batch=4, wait_seconds=0)
    futures = [*batcher.submit_all([image(number) for number in (666, 1, 2)], attempt_id(1)), submit(batcher, 3)]
    batcher.start()
    assert futures[-1].result(SOON).logit == 3
    assert reason(futures[2]).code == ErrorCode.INTERNAL
    assert model.batches == [4, 2, 1, 1, 1]  # all; the first two; the culprit alone; a blank; the neighbour alone
    batcher.close()


def test_each_image_of_a_pass_is_told_when_the_classifier_begins(start: Start, model: Model):
    batcher, told = start(max_batch=2), threading.Semaphore(0)
    model.open.clear()
    futures = [batcher.submit(image(number), attempt_id(number), on_classifying=told.release) for number in (1, 2)]
    assert model.entered.wait(SOON)
    assert not told.acquire(blocking=False)
    model.open.set()
    logits(futures)
    assert [told.acquire(blocking=False) for _ in range(3)] == [True, True, False]


def test_thread_that_ends_against_all_rules_is_not_silent():
    """Jobs that wait for it would keep their leases for ever."""

    def exits(_: Sequence[Floats], _classifying: Notify) -> list[PassResult]:
        raise SystemExit

    given_up: queue.SimpleQueue[Sequence[AttemptId]] = queue.SimpleQueue()
    batcher = Batcher(exits, max_batch=1, wait_seconds=0, give_up=given_up.put)
    batcher.start()
    submit(batcher, 1)
    assert given_up.get(timeout=SOON) == [attempt_id(1)]
    batcher.close()


def test_canceled_image_does_not_reach_the_device(start: Start, model: Model):
    model.open.clear()
    batcher = start(max_batch=1)
    running = submit(batcher, 1)
    assert model.entered.wait(SOON)
    dropped, kept = submit(batcher, 2), submit(batcher, 3)
    assert dropped.cancel()
    model.open.set()
    assert logits([running, kept]) == [1, 3]
    assert model.batches == [1, 1]


def test_closing_cancels_what_still_waits(start: Start, model: Model):
    model.open.clear()
    batcher = start(max_batch=1)
    running = submit(batcher, 1)
    assert model.entered.wait(SOON)
    waiting = submit(batcher, 2)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    model.open.set()
    closing.join(SOON)
    assert running.result(SOON).logit == 1
    with pytest.raises(CancelledError):
        waiting.result(SOON)


def test_images_of_one_job_are_judged_in_one_pass_and_blamed_as_one(start: Start, model: Model):
    blamed: list[list[AttemptId]] = []

    @contextmanager
    def watch(attempts: Sequence[AttemptId]) -> Iterator[None]:
        blamed.append(list(attempts))
        yield

    batcher = start(max_batch=5, watch=watch)
    with batcher.approaching():
        futures = batcher.submit_all([image(number) for number in range(5)], attempt_id(1))
        assert [future.result(SOON).logit for future in futures] == [0, 1, 2, 3, 4]
    assert model.batches == [5]
    assert blamed == [[attempt_id(1)]]
