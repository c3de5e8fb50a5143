"""Which process an id means: a living one is never taken for dead, and one that reuses an id never for another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shared.workers import procfs


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits until its input ends."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def ticks_of(process: subprocess.Popen[bytes]) -> int:
    ticks = procfs.start_ticks(process.pid)
    assert ticks is not None
    return ticks


def test_a_process_lives_until_it_ends_also_while_it_is_stopped(child: subprocess.Popen[bytes]):
    ticks = ticks_of(child)
    assert not procfs.is_gone(child.pid, ticks)
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert not procfs.is_gone(child.pid, ticks)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    assert procfs.is_gone(child.pid, ticks)
    child.wait()
    assert procfs.is_gone(child.pid, ticks)


def test_a_process_that_got_the_id_of_another_is_not_that_one(child: subprocess.Popen[bytes]):
    assert procfs.is_gone(child.pid, ticks_of(child) - 1)


def test_a_process_that_proc_hides_counts_as_alive(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: object
):
    ticks = ticks_of(child)
    monkeypatch.setattr(procfs, "_PROC", tmp_path)
    assert procfs.start_ticks(child.pid) is None
    assert not procfs.is_gone(child.pid, ticks)
    assert procfs.pid_space() is None


def test_processes_share_their_ids_only_inside_one_namespace():
    here = procfs.pid_space()
    assert here is not None
    ask = [sys.executable, "-c", "from shared.workers.procfs import pid_space; print(pid_space())"]
    assert subprocess.check_output(ask, text=True).strip() == here
    unshared = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    apart = subprocess.run([*unshared, *ask], capture_output=True, text=True, check=False)
    if apart.returncode:
        pytest.skip(f"no namespaces here: {apart.stderr}")
    assert apart.stdout.strip() not in (here, "None")
