"""Who takes work, and how much of it at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from shared.errors import StoreUnavailableError
from worker.jobs.executor import ClaimedWork, Executor

SOON = 5.0  # seconds: never reached by a test that passes


class Work:
    """Work that waits, and a count of what is being done."""

    def __init__(self) -> None:
        self.waiting: deque[ClaimedWork] = deque()
        self.looks = 0
        self.done: list[str] = []
        self.doing = threading.Semaphore(0)
        self.may_end = threading.Event()

    def take(self, most: int) -> list[ClaimedWork]:
        """As a claim does: an isolated piece comes by itself, and ends what is taken before it."""
        self.looks += 1
        taken: list[ClaimedWork] = []
        while self.waiting and len(taken) < most:
            if self.waiting[0].isolated and taken:
                break
            taken.append(self.waiting.popleft())
            if taken[-1].isolated:
                break
        return taken

    def add(self, count: int) -> None:
        for number in range(count):
            self.waiting.append(ClaimedWork(lambda number=number: self.done.append(f"claimed {number}")))  # type: ignore[misc]

    def add_long(self, count: int) -> None:
        for _ in range(count):
            self.waiting.append(ClaimedWork(self._long))

    def _long(self) -> None:
        self.doing.release()
        assert self.may_end.wait(SOON)
        self.done.append("long")


class Clock:
    """A clock that a test sets; it does not move by itself."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_the_longest_pause(self) -> None:
        self.now += 60


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def executor(work: Work, clock: Clock) -> Iterator[Executor]:
    executor = Executor(work.take, slots=3, clock=clock)
    yield executor
    work.may_end.set()
    executor.close()


def raises(error: Exception) -> ClaimedWork:
    def do() -> None:
        raise error

    return ClaimedWork(do)


def await_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_one_wake_up_works_until_nothing_is_left(executor: Executor, work: Work):
    work.add(5)
    executor.work()
    assert len(work.done) == 5


def test_one_look_fills_every_slot_and_not_one_more(executor: Executor, work: Work):
    work.add_long(10)
    executor.look()
    for _ in range(3):
        assert work.doing.acquire(timeout=SOON)
    assert not work.doing.acquire(timeout=0.05)
    work.may_end.set()
    await_true(lambda: len(work.done) == 10)


def test_what_is_taken_for_all_free_slots_at_once_is_begun_at_once(executor: Executor, work: Work):
    work.add_long(3)
    work.add(2)
    woken = threading.Thread(target=executor.work)
    woken.start()
    for _ in range(3):
        assert work.doing.acquire(timeout=SOON)
    assert (work.looks, executor.taken) == (1, 3)
    work.may_end.set()
    woken.join(SOON)
    await_true(lambda: len(work.done) == 5)


def test_many_slots_are_filled_by_several_looks(work: Work):
    executor = Executor(work.take, slots=70)
    work.add_long(70)
    executor.look()
    for _ in range(70):
        assert work.doing.acquire(timeout=SOON)
    assert work.looks == 3  # of 32, 32 and 6
    work.may_end.set()
    executor.close()
    assert len(work.done) == 70


def test_what_was_taken_when_the_executor_is_closed_is_done_all_the_same(work: Work):
    def take_and_be_closed(most: int) -> list[ClaimedWork]:
        closed.close()
        return work.take(most)

    closed = Executor(take_and_be_closed, slots=3)
    work.add(3)
    closed.work()
    assert sorted(work.done) == ["claimed 0", "claimed 1", "claimed 2"]


def test_wake_up_waits_for_a_slot_instead_of_being_dropped(executor: Executor, work: Work):
    work.add_long(3)
    executor.look()
    for _ in range(3):
        assert work.doing.acquire(timeout=SOON)
    woken = threading.Thread(target=executor.work)
    woken.start()
    woken.join(0.05)
    assert woken.is_alive()
    work.may_end.set()
    woken.join(SOON)
    assert not woken.is_alive()


def test_stopped_executor_finishes_its_work_and_takes_no_other(executor: Executor, work: Work):
    work.add_long(4)
    woken = threading.Thread(target=executor.work)
    woken.start()
    for _ in range(3):
        assert work.doing.acquire(timeout=SOON)
    executor.stop()
    work.may_end.set()
    woken.join(SOON)
    executor.look()
    executor.close()
    assert work.done == ["long"] * 3


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a bug"), StoreUnavailableError()])
def test_failing_work_neither_raises_nor_keeps_its_slot(executor: Executor, work: Work, clock: Clock, error: Exception):
    for _ in range(6):
        work.waiting.append(raises(error))
        executor.work()
        clock.pass_the_longest_pause()
    work.add(1)
    executor.work()
    assert work.done == ["claimed 0"]


def test_outages_make_the_executor_pause_for_longer_each_time_until_work_succeeds(
    executor: Executor, work: Work, clock: Clock
):
    for pause in (0.5, 1, 2, 4, 4):
        work.waiting.append(raises(StoreUnavailableError()))
        executor.work()
        assert pause_of(executor, clock) == pause
    work.add(1)
    executor.work()
    assert work.done == ["claimed 0"]
    work.waiting.append(raises(StoreUnavailableError()))
    executor.work()
    assert pause_of(executor, clock) == 0.5


def test_paused_executor_takes_nothing(executor: Executor, work: Work):
    work.waiting.append(raises(StoreUnavailableError()))
    executor.work()
    work.add(1)
    executor.work()
    assert work.done == []
    assert work.looks == 1


def pause_of(executor: Executor, clock: Clock) -> float:
    """Move the clock to the end of the executor's pause; return how long it lasted, to a quarter of a second."""
    began = clock.now
    while not executor.willing:
        clock.now += 0.25
    return clock.now - began


def test_outage_that_every_slot_meets_is_one_pause(executor: Executor, work: Work):
    all_started = threading.Barrier(4)

    def do() -> None:
        all_started.wait(SOON)
        raise StoreUnavailableError

    for _ in range(3):
        work.waiting.append(ClaimedWork(do))
    with capture_logs() as records:
        executor.look()
        all_started.wait(SOON)
        executor.close()
    assert [(record["event"], record["seconds"]) for record in records] == [("crew_pauses", 0.5)]


def add_isolated(executor: Executor, work: Work, log: list[str], name: str) -> None:
    """Add isolated work that logs when it was taken, when it is alone, and when it ends."""

    def do() -> None:
        log.append(f"{name} taken")
        executor.wait_until_isolated()
        log.append(f"{name} alone")
        work.doing.release()
        assert work.may_end.wait(SOON)
        log.append(f"{name} ends")

    work.waiting.append(ClaimedWork(do, isolated=True))


def test_isolated_work_begins_when_the_others_have_ended(executor: Executor, work: Work):
    log: list[str] = []
    work.add_long(2)
    add_isolated(executor, work, log, "first")
    add_isolated(executor, work, log, "second")
    work.add(4)
    executor.look()
    for _ in range(2):
        assert work.doing.acquire(timeout=SOON)
    executor.look()
    await_true(lambda: log == ["first taken"])
    executor.look()
    assert work.done == []
    assert work.looks == 2  # nobody takes meanwhile
    work.may_end.set()
    await_true(lambda: len(work.done) == 6)
    assert log == [f"{name} {what}" for name in ("first", "second") for what in ("taken", "alone", "ends")]
    assert work.done[:2] == ["long", "long"]


def test_nothing_is_taken_while_isolated_work_runs_and_all_slots_are_used_after(executor: Executor, work: Work):
    log: list[str] = []
    add_isolated(executor, work, log, "lonely")
    work.add_long(3)
    executor.look()
    assert work.doing.acquire(timeout=SOON)
    executor.look()
    assert not work.doing.acquire(timeout=0.05)
    assert work.looks == 1
    work.may_end.set()
    await_true(lambda: work.done == ["long"] * 3)


@pytest.mark.parametrize("error", [MemoryError(), StoreUnavailableError()])
def test_isolated_work_that_fails_lets_the_others_in(executor: Executor, work: Work, clock: Clock, error: Exception):
    work.waiting.append(ClaimedWork(raises(error).do, isolated=True))
    work.add(2)
    executor.work()
    clock.pass_the_longest_pause()
    executor.work()
    await_true(lambda: sorted(work.done) == ["claimed 0", "claimed 1"])


def test_executor_that_is_told_to_stop_ends_although_isolated_work_waits(executor: Executor, work: Work):
    log: list[str] = []
    work.add_long(1)
    add_isolated(executor, work, log, "last")
    work.add(3)
    executor.look()
    assert work.doing.acquire(timeout=SOON)
    executor.look()
    await_true(lambda: log == ["last taken"])
    woken = threading.Thread(target=executor.work)
    woken.start()
    executor.stop()
    work.may_end.set()
    executor.close()
    woken.join(SOON)
    assert not woken.is_alive()
    assert log[-1] == "last ends"
    assert work.done == ["long"]


def test_a_hundred_pieces_of_work_that_run_out_of_memory_leave_every_slot_working(
    executor: Executor, work: Work, clock: Clock
):
    for _ in range(100):
        work.waiting.append(raises(MemoryError()))
        executor.work()
        clock.pass_the_longest_pause()
    work.add_long(3)
    executor.look()
    for _ in range(3):
        assert work.doing.acquire(timeout=SOON)


def test_frozen_executor_takes_nothing_more_and_one_who_is_taking_is_waited_for():
    taking, may_take, taken = threading.Event(), threading.Event(), []

    def take(_: int) -> list[ClaimedWork]:
        taking.set()
        assert may_take.wait(SOON)
        taken.append("claimed")
        return []

    executor = Executor(take, slots=2)
    woken = threading.Thread(target=executor.work)
    woken.start()
    assert taking.wait(SOON)
    threading.Timer(0.05, may_take.set).start()
    executor.freeze(SOON)
    assert taken == ["claimed"]
    woken.join(SOON)
