"""What happens to a pass of the device that takes too long, or too much."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest

from shared.domain import AttemptId
from worker.inference.pass_watchdog import PassTooSlowError, PassWatchdog, memory_limit, pass_limit, resident_bytes

SOON, LONG = 5.0, 20.0  # seconds: never reached by a test that passes
PASS = [AttemptId(UUID(int=1), 1), AttemptId(UUID(int=2), 3)]
NO_LIMIT = 1 << 60


@pytest.fixture
def given_up() -> queue.SimpleQueue[Sequence[AttemptId]]:
    return queue.SimpleQueue()


def test_pass_that_takes_too_long_is_given_up_with_its_jobs_named(
    given_up: queue.SimpleQueue[Sequence[AttemptId]], capfd: pytest.CaptureFixture[str]
):
    with PassWatchdog(given_up.put, seconds=0.2, ceiling=LONG, memory_bytes=NO_LIMIT)(PASS):
        assert given_up.get(timeout=SOON) == PASS
    said = capfd.readouterr().out
    assert "device_stuck" in said
    assert Path(__file__).name in said  # the stack says where it hung


def test_pass_is_late_long_before_it_is_given_up(given_up: queue.SimpleQueue[Sequence[AttemptId]]):
    watch = PassWatchdog(given_up.put, seconds=4, ceiling=LONG, memory_bytes=NO_LIMIT)
    with watch(PASS):
        deadline = time.monotonic() + SOON
        began_late = watch.late
        while not watch.late:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert given_up.empty()
    assert not began_late
    assert not watch.late


class EndsMeanwhile(threading.Event):
    """Set in the moment after somebody saw that it was not."""

    def wait(self, timeout: float | None = None) -> bool:
        was_set = self.is_set()
        self.set()
        return was_set


def test_pass_that_ends_while_it_is_found_late_keeps_nobody_from_working(
    given_up: queue.SimpleQueue[Sequence[AttemptId]],
):
    watchdog = PassWatchdog(given_up.put, seconds=0.4, ceiling=LONG, memory_bytes=NO_LIMIT)
    watchdog.watch(EndsMeanwhile(), threading.get_ident(), PASS)
    assert not watchdog.late


def test_pass_that_takes_too_much_memory_is_given_up(given_up: queue.SimpleQueue[Sequence[AttemptId]]):
    with PassWatchdog(given_up.put, seconds=LONG, ceiling=LONG, memory_bytes=resident_bytes() + (32 << 20))(PASS):
        assert given_up.empty()
        taken: list[bytearray] = []
        while given_up.empty() and len(taken) < 16:  # what earlier tests left may be freed meanwhile
            taken.append(bytearray(b"x") * (64 << 20))
            time.sleep(0.2)
        assert given_up.get(timeout=SOON) == PASS
        del taken


def test_pass_that_ends_in_time_leaves_nothing_behind(given_up: queue.SimpleQueue[Sequence[AttemptId]]):
    watch = PassWatchdog(given_up.put, seconds=0.2, ceiling=LONG, memory_bytes=NO_LIMIT)
    for _ in range(3):
        with watch(PASS):
            pass
    for thread in threading.enumerate():
        if thread.name == "pass watch":
            thread.join(SOON)
            assert not thread.is_alive()
    assert given_up.empty()


def test_process_that_was_stopped_is_not_stuck():
    """Nobody computes while the process stands still: a pass has lost no time by it."""
    program = (
        "import os, threading, time, worker.inference.pass_watchdog as w\n"
        "watch = w.PassWatchdog(lambda _: os._exit(1), seconds=1.0, ceiling=60, memory_bytes=1 << 60)\n"
        "with watch([]):\n"
        "    print('in', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    print('stop', flush=True)\n"
        "    time.sleep(0.2)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)  # the standing still itself: there is nothing to wait for
        process.send_signal(signal.SIGCONT)
        assert process.wait(SOON) == 0


def test_pass_that_holds_the_interpreters_lock_is_ended_too():
    program = (
        "import ctypes, os, worker.inference.pass_watchdog as w; w._LOCKED_SECONDS = 0.2\n"
        "with w.PassWatchdog(lambda _: os._exit(9), seconds=60, ceiling=0.2, memory_bytes=1 << 60)([]):\n"
        "    ctypes.PyDLL(None).sleep(60)\n"  # as a driver would: it keeps the lock
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr


@pytest.mark.parametrize(
    ("expected", "ceiling", "limit"),
    [(0.02, 300, 5), (0.4, 300, 5), (1.6, 300, 16), (20, 300, 200), (60, 300, 300), (0.02, 1, 1)],
)
def test_limit_of_a_pass_comes_from_what_it_takes_as_a_rule(expected: float, ceiling: float, limit: float):
    assert pass_limit(expected, ceiling) == limit


def test_a_limit_below_what_sound_passes_take_is_refused():
    with pytest.raises(PassTooSlowError, match=r"takes 4 s .* allows 5\. Set it to 40"):
        pass_limit(4.0, 5.0)


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_limit_of_memory_is_most_of_the_containers(tmp_path: Path, name: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("1000000\n")
    assert memory_limit(tmp_path) == 800_000


@pytest.mark.parametrize("limit", ["max", str(1 << 62), None])
def test_limit_of_memory_is_most_of_the_machines_where_no_container_has_one(tmp_path: Path, limit: str | None):
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_limit(tmp_path) == int(0.8 * machine)
