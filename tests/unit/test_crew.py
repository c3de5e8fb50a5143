"""Who takes work, and how much of it at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from shared.errors import StoreUnavailableError
from worker.crew import Crew, Errand

SOON = 5.0  # seconds: never reached by a test that passes


class Work:
    """Errands that wait, and a count of those that are being done."""

    def __init__(self) -> None:
        self.waiting: queue.SimpleQueue[Errand] = queue.SimpleQueue()
        self.looks = 0
        self.done: list[str] = []
        self.doing = threading.Semaphore(0)
        self.may_end = threading.Event()

    def take(self) -> Errand | None:
        self.looks += 1
        try:
            return self.waiting.get_nowait()
        except queue.Empty:
            return None

    def add(self, count: int) -> None:
        for number in range(count):
            self.waiting.put(lambda number=number: self.done.append(f"errand {number}"))  # type: ignore[misc]

    def add_long(self, count: int) -> None:
        for _ in range(count):
            self.waiting.put(self._long)

    def _long(self) -> None:
        self.doing.release()
        assert self.may_end.wait(SOON)
        self.done.append("long")


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def crew(work: Work) -> Iterator[Crew]:
    crew = Crew(work.take, slots=3)
    yield crew
    work.may_end.set()
    crew.close()


def raises(error: Exception) -> Errand:
    def errand() -> None:
        raise error

    return errand


def await_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_one_wake_up_works_until_nothing_is_left(crew: Crew, work: Work):
    work.add(5)
    crew.work()
    assert len(work.done) == 5


def test_one_look_fills_every_slot_and_not_one_more(crew: Crew, work: Work):
    work.add_long(10)
    crew.look()
    for _ in range(3):
        assert work.doing.acquire(timeout=SOON)
    assert not work.doing.acquire(timeout=0.05)
    work.may_end.set()
    await_true(lambda: len(work.done) == 10)


def test_wake_up_waits_for_a_slot_instead_of_being_dropped(crew: Crew, work: Work):
    work.add_long(3)
    crew.look()
    for _ in range(3):
        assert work.doing.acquire(timeout=SOON)
    woken = threading.Thread(target=crew.work)
    woken.start()
    woken.join(0.05)
    assert woken.is_alive()
    work.may_end.set()
    woken.join(SOON)
    assert not woken.is_alive()


def test_stopped_crew_finishes_its_errand_and_takes_no_other(crew: Crew, work: Work):
    work.add_long(2)
    woken = threading.Thread(target=crew.work)
    woken.start()
    assert work.doing.acquire(timeout=SOON)
    crew.stop()
    work.may_end.set()
    woken.join(SOON)
    crew.look()
    crew.close()
    assert work.done == ["long"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a bug"), StoreUnavailableError()])
def test_failing_errand_neither_raises_nor_keeps_its_slot(crew: Crew, work: Work, error: Exception):
    for _ in range(6):
        work.waiting.put(raises(error))
        crew._paused_until = 0.0
        crew.work()
    crew._paused_until = 0.0
    work.add(1)
    crew.work()
    assert work.done == ["errand 0"]


def test_outage_makes_the_crew_pause_and_an_errand_that_succeeds_ends_it(crew: Crew, work: Work):
    work.waiting.put(raises(StoreUnavailableError()))
    work.add(1)
    crew.work()
    crew.work()
    assert work.done == []
    assert work.looks == 1
    time.sleep(max(0.0, crew._paused_until - time.monotonic()))
    crew.work()
    assert work.done == ["errand 0"]
    assert crew._outages == 0


def test_outage_that_every_slot_meets_is_one_pause(crew: Crew, work: Work):
    all_started = threading.Barrier(3)

    def errand() -> None:
        all_started.wait(SOON)
        raise StoreUnavailableError

    for _ in range(3):
        work.waiting.put(errand)
    crew.look()
    await_true(lambda: crew._slots._value == 3)
    assert crew._outages == 1
