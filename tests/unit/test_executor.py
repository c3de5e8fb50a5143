"""Who takes work, and how much of it at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from shared.errors import StoreUnavailableError
from worker.jobs.executor import Crew, Errand

SOON = 5.0  # seconds: never reached by a test that passes


class Work:
    """Errands that wait, and a count of those that are being done."""

    def __init__(self) -> None:
        self.waiting: deque[Errand] = deque()
        self.looks = 0
        self.done: list[str] = []
        self.doing = threading.Semaphore(0)
        self.may_end = threading.Event()

    def take(self, most: int) -> list[Errand]:
        """As a claim does: what is to be alone comes alone, and ends what is taken before it."""
        self.looks += 1
        taken: list[Errand] = []
        while self.waiting and len(taken) < most:
            if self.waiting[0].alone and taken:
                break
            taken.append(self.waiting.popleft())
            if taken[-1].alone:
                break
        return taken

    def add(self, count: int) -> None:
        for number in range(count):
            self.waiting.append(Errand(lambda number=number: self.done.append(f"errand {number}")))  # type: ignore[misc]

    def add_long(self, count: int) -> None:
        for _ in range(count):
            self.waiting.append(Errand(self._long))

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
    def do() -> None:
        raise error

    return Errand(do)


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


def test_what_is_taken_for_all_free_slots_at_once_is_begun_at_once(crew: Crew, work: Work):
    work.add_long(3)
    work.add(2)
    woken = threading.Thread(target=crew.work)
    woken.start()
    for _ in range(3):
        assert work.doing.acquire(timeout=SOON)
    assert (work.looks, crew.taken) == (1, 3)
    work.may_end.set()
    woken.join(SOON)
    await_true(lambda: len(work.done) == 5)


def test_many_slots_are_filled_by_several_looks(work: Work):
    crew = Crew(work.take, slots=70)
    work.add_long(70)
    crew.look()
    for _ in range(70):
        assert work.doing.acquire(timeout=SOON)
    assert work.looks == 3  # of 32, 32 and 6
    work.may_end.set()
    crew.close()
    assert len(work.done) == 70


def test_what_was_taken_when_the_crew_is_closed_is_done_all_the_same(crew: Crew, work: Work):
    def take_and_be_closed(most: int) -> list[Errand]:
        crew.close()
        return work.take(most)

    crew._take = take_and_be_closed
    work.add(3)
    crew.work()
    assert sorted(work.done) == ["errand 0", "errand 1", "errand 2"]


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
    work.add_long(4)
    woken = threading.Thread(target=crew.work)
    woken.start()
    for _ in range(3):
        assert work.doing.acquire(timeout=SOON)
    crew.stop()
    work.may_end.set()
    woken.join(SOON)
    crew.look()
    crew.close()
    assert work.done == ["long"] * 3


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a bug"), StoreUnavailableError()])
def test_failing_errand_neither_raises_nor_keeps_its_slot(crew: Crew, work: Work, error: Exception):
    for _ in range(6):
        work.waiting.append(raises(error))
        crew._paused_until = 0.0
        crew.work()
    crew._paused_until = 0.0
    work.add(1)
    crew.work()
    assert work.done == ["errand 0"]


def test_outage_makes_the_crew_pause_and_an_errand_that_succeeds_ends_it(crew: Crew, work: Work):
    work.waiting.append(raises(StoreUnavailableError()))
    crew.work()
    work.add(1)
    crew.work()
    assert work.done == []
    assert work.looks == 1
    time.sleep(max(0.0, crew._paused_until - time.monotonic()))
    crew.work()
    assert work.done == ["errand 0"]
    assert crew._outages == 0


def test_outage_that_every_slot_meets_is_one_pause(crew: Crew, work: Work):
    all_started = threading.Barrier(3)

    def do() -> None:
        all_started.wait(SOON)
        raise StoreUnavailableError

    for _ in range(3):
        work.waiting.append(Errand(do))
    crew.look()
    await_true(lambda: crew._slots._value == 3)
    assert crew._outages == 1


def add_alone(crew: Crew, work: Work, log: list[str], name: str) -> None:
    """Add an errand that is to be alone, and notes when it has been taken, when it is, and when it ends."""

    def do() -> None:
        log.append(f"{name} taken")
        crew.wait_until_alone()
        log.append(f"{name} alone")
        work.doing.release()
        assert work.may_end.wait(SOON)
        log.append(f"{name} ends")

    work.waiting.append(Errand(do, alone=True))


def test_errand_that_is_to_be_alone_begins_when_the_others_have_ended(crew: Crew, work: Work):
    log: list[str] = []
    work.add_long(2)
    add_alone(crew, work, log, "first")
    add_alone(crew, work, log, "second")
    work.add(4)
    crew.look()
    for _ in range(2):
        assert work.doing.acquire(timeout=SOON)
    crew.look()
    await_true(lambda: log == ["first taken"])
    crew.look()
    assert work.done == []
    assert work.looks == 2  # nobody takes meanwhile
    work.may_end.set()
    await_true(lambda: len(work.done) == 6)
    assert log == [f"{name} {what}" for name in ("first", "second") for what in ("taken", "alone", "ends")]
    assert work.done[:2] == ["long", "long"]


def test_nothing_is_taken_while_an_errand_is_alone_and_all_slots_are_used_after(crew: Crew, work: Work):
    log: list[str] = []
    add_alone(crew, work, log, "lonely")
    work.add_long(3)
    crew.look()
    assert work.doing.acquire(timeout=SOON)
    crew.look()
    assert not work.doing.acquire(timeout=0.05)
    assert work.looks == 1
    work.may_end.set()
    await_true(lambda: work.done == ["long"] * 3)


@pytest.mark.parametrize("error", [MemoryError(), StoreUnavailableError()])
def test_errand_that_fails_alone_lets_the_others_in(crew: Crew, work: Work, error: Exception):
    work.waiting.append(Errand(raises(error).do, alone=True))
    work.add(2)
    crew.work()
    crew._paused_until = 0.0
    crew.work()
    await_true(lambda: sorted(work.done) == ["errand 0", "errand 1"])


def test_crew_that_is_told_to_stop_ends_although_one_waits_to_be_alone(crew: Crew, work: Work):
    log: list[str] = []
    work.add_long(1)
    add_alone(crew, work, log, "last")
    work.add(3)
    crew.look()
    assert work.doing.acquire(timeout=SOON)
    crew.look()
    await_true(lambda: log == ["last taken"])
    woken = threading.Thread(target=crew.work)
    woken.start()
    crew.stop()
    work.may_end.set()
    crew.close()
    woken.join(SOON)
    assert not woken.is_alive()
    assert log[-1] == "last ends"
    assert work.done == ["long"]


def test_hundred_errands_that_run_out_of_memory_leave_every_slot_working(crew: Crew, work: Work):
    for _ in range(100):
        work.waiting.append(raises(MemoryError()))
        crew._paused_until = 0.0
        crew.work()
    crew._paused_until = 0.0
    work.add_long(3)
    crew.look()
    for _ in range(3):
        assert work.doing.acquire(timeout=SOON)


def test_frozen_crew_takes_nothing_more_and_one_who_is_taking_is_waited_for():
    taking, may_take, taken = threading.Event(), threading.Event(), []

    def take(_: int) -> list[Errand]:
        taking.set()
        assert may_take.wait(SOON)
        taken.append("an errand")
        return []

    crew = Crew(take, slots=2)
    woken = threading.Thread(target=crew.work)
    woken.start()
    assert taking.wait(SOON)
    threading.Timer(0.05, may_take.set).start()
    crew.freeze(SOON)
    assert taken == ["an errand"]
    assert crew._taking.locked()
    woken.join(SOON)
