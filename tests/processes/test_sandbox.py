"""The sandbox with real processes: what its children may do, how they end, and what survives them."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import structlog

from shared.domain import PICTURES
from shared.errors import ErrorCode, JobError
from shared.images.visualizations import analyzed_region, dire_map_png, heatmap_png, overlay_png, preview_jpeg
from tests.support.bad_images import ACCEPTED, REFUSED, OddImage, photograph, saved
from tests.support.quota import Quota
from worker.imaging.decoding import ImageLimits, decode, preprocess
from worker.imaging.perturbations import PERTURBATIONS
from worker.sandbox import client, protocol
from worker.sandbox.sandbox import OpenedImage, Sandbox, SandboxError

_PNG = saved(photograph(), "PNG")
_EPS = np.random.default_rng(1).normal(size=(3, 64, 64)).astype(np.float32)
_MEAN = np.random.default_rng(2).normal(size=(2, 2)).astype(np.float32)


class HostileSandbox(Sandbox):
    """A sandbox whose decoder obeys the file."""

    entry = ("-m", "tests.support.hostile_child")


class UnfilteredSandbox(Sandbox):
    """The same on a kernel without seccomp."""

    entry = ("-m", "tests.support.hostile_child", "unfiltered")


def _worker(program: str) -> subprocess.Popen[str]:
    """A worker of its own; its decoders find the tests by a path that is no working directory."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as started:
        yield started


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileSandbox]:
    with HostileSandbox(idle_seconds=20) as started:
        yield started


@pytest.fixture(scope="module")
def unfiltered() -> Iterator[UnfilteredSandbox]:
    with UnfilteredSandbox(idle_seconds=20) as started:
        yield started


def told_to(behaviour: str) -> bytes:
    return _PNG + b"|" + behaviour.encode()


def failure(sandbox: Sandbox, data: bytes) -> JobError:
    with pytest.raises(JobError) as failed:
        sandbox.open(data, 64)
    return failed.value


def server_pid(sandbox: Sandbox) -> int:
    assert sandbox.server_pid is not None
    return sandbox.server_pid


def children_of(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we looked
            state, parent = status.read_text(encoding="ascii").rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(status.parent.name))
    return found


def await_children(pid: int, count: int) -> list[int]:
    deadline = time.monotonic() + 20
    while len(children := children_of(pid)) != count:
        assert time.monotonic() < deadline, f"{len(children)} children, not {count}"
        time.sleep(0.01)
    return children


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@contextlib.contextmanager
def ends(*pids: int) -> Iterator[None]:
    """The block must bring these processes to their end."""
    watched = [os.pidfd_open(pid) for pid in pids]
    try:
        yield
        for pid, watch in zip(pids, watched, strict=True):
            assert select.select([watch], [], [], 10)[0], f"process {pid} lives on"
    finally:
        for watch in watched:
            os.close(watch)


@pytest.mark.parametrize("odd", REFUSED, ids=lambda odd: odd.name)
def test_a_bad_file_has_its_code(odd: OddImage, sandbox: Sandbox):
    assert failure(sandbox, odd.data).code == odd.code


@pytest.mark.parametrize("odd", ACCEPTED, ids=lambda odd: odd.name)
def test_an_odd_file_is_opened_as_in_process(odd: OddImage, sandbox: Sandbox):
    here = decode(odd.data, ImageLimits())
    with sandbox.open(odd.data, 64) as image:
        assert image.facts == here.facts
        np.testing.assert_array_equal(image.x, preprocess(here.image, 64))


def test_perturbations_are_made_in_the_child_where_they_are_asked_for(sandbox: Sandbox):
    photo = photograph(90, 60)
    with sandbox.open(saved(photo, "PNG"), 32, probe=True) as image:
        expected = np.stack([preprocess(change(photo), 32) for change in PERTURBATIONS])
        np.testing.assert_array_equal(image.perturbed, expected)
        np.testing.assert_array_equal(image.x, preprocess(photo, 32))
    with sandbox.open(saved(photo, "PNG"), 32) as image:
        assert image.perturbed.shape == (0, 3, 32, 32)


def test_the_pictures_are_those_made_in_process(sandbox: Sandbox):
    image, region = photograph(90, 60), analyzed_region(90, 60, 64)
    with sandbox.open(saved(image, "PNG"), 64) as opened:
        pictures = opened.render(_EPS, _MEAN, PICTURES)
    assert pictures == {
        "dire_map": dire_map_png(_EPS),
        "heatmap": heatmap_png(_MEAN, 90, 60, region),
        "overlay": overlay_png(image, _MEAN, region),
        "preview": preview_jpeg(image),
    }


def test_only_what_is_wanted_is_drawn(sandbox: Sandbox):
    with sandbox.open(_PNG, 64) as image:
        assert image.render(_EPS, _MEAN, ()) == {}
        assert image.render(_EPS, _MEAN, {"overlay"}).keys() == {"overlay"}


@pytest.mark.parametrize(
    ("behaviour", "code", "said"),
    [
        ("segfault", ErrorCode.DECODE_CRASHED, "SIGSEGV"),
        ("abort", ErrorCode.DECODE_CRASHED, "SIGABRT"),
        ("end namelessly", ErrorCode.DECODE_CRASHED, "signal 40"),
        ("allocate", ErrorCode.OUT_OF_MEMORY, "memory"),
        ("no memory to say so", ErrorCode.OUT_OF_MEMORY, "memory"),
        ("exit", ErrorCode.INTERNAL, ""),
        ("bug", ErrorCode.INTERNAL, ""),
    ],
)
def test_a_decoder_that_ends_fails_its_job_alone(behaviour: str, code: ErrorCode, said: str, hostile: HostileSandbox):
    with hostile.open(told_to("behave"), 64) as neighbour:
        error = failure(hostile, told_to(behaviour))
        assert (error.code, said in error.message) == (code, True)
        assert len(neighbour.render(_EPS, _MEAN, PICTURES)) == 4


def test_a_decoder_that_loops_is_ended_by_processor_time():
    with HostileSandbox(cpu_seconds=1, idle_seconds=60) as hostile:
        error = failure(hostile, told_to("spin"))
        assert (error.code, "processor time" in error.message) == (ErrorCode.DECODE_CRASHED, True)
        assert "SIGKILL" in failure(hostile, told_to("spin stubbornly")).message


def test_a_decoder_that_hangs_is_ended_by_the_clock():
    with HostileSandbox(idle_seconds=0.5) as hostile:
        error = failure(hostile, told_to("sleep"))
        assert (error.code, "0.5 seconds" in error.message) == (ErrorCode.DECODE_CRASHED, True)
        await_children(server_pid(hostile), 0)


#: A worker in whose decoder a sound image takes 0.3 s of a processor, and that may be idle for as long as it says.
_COMPUTING = """
    import sys
    from tests.support.bad_images import photograph, saved
    from worker.sandbox.sandbox import Sandbox

    class ComputingSandbox(Sandbox):
        entry = ("-m", "tests.support.hostile_child")

    with ComputingSandbox(cpu_seconds=2, idle_seconds=0.3) as sandbox:
        print(sandbox.server_pid, flush=True)
        sys.stdin.readline()
        print(sandbox.open(saved(photograph(), "PNG") + b"|compute for a while", 64).facts.width, flush=True)
"""


def test_on_a_crowded_machine_a_sound_image_takes_longer_and_does_not_fail():
    core = min(os.sched_getaffinity(0))
    spinning = ["taskset", "--cpu-list", str(core), sys.executable, "-c", "while True: pass"]
    crowd = [subprocess.Popen(spinning) for _ in range(9)]
    try:
        with _worker(textwrap.dedent(_COMPUTING)) as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            server = int(worker.stdout.readline())
            for pid in (worker.pid, server):
                os.sched_setaffinity(pid, {core})
            began = time.monotonic()
            worker.stdin.write("go\n")
            worker.stdin.flush()
            assert worker.stdout.readline() == "64\n"
            assert time.monotonic() - began > 0.45  # it was crowded indeed
    finally:
        for each in crowd:
            each.kill()
            each.wait()


def test_at_a_twentieth_of_a_core_a_sound_image_does_not_fail(little_time: Callable[[int], object]):
    with _worker(textwrap.dedent(_COMPUTING)) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        server = int(worker.stdout.readline())
        for pid in (worker.pid, server):
            little_time(pid)
        began = time.monotonic()
        worker.stdin.write("go\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == "64\n"
        assert time.monotonic() - began > 2


@pytest.fixture
def little_time() -> Iterator[Callable[[int], object]]:
    """Put a process, and those that it starts, into a control group with 5 % of a core; skips where nobody may."""
    quota = Quota(f"distildire-test-{os.getpid()}", 0.05)
    if not quota.make():
        pytest.skip("control groups cannot be made here")
    yield lambda pid: quota.hold([pid])
    quota.remove()


def test_the_kernel_is_told_to_end_a_decoder_before_its_worker(sandbox: Sandbox):
    with sandbox.open(_PNG, 64):
        (child,) = await_children(server_pid(sandbox), 1)
        assert Path(f"/proc/{child}/oom_score_adj").read_text() == "1000\n"
    assert Path(f"/proc/{server_pid(sandbox)}/oom_score_adj").read_text() != "1000\n"


def test_what_a_decoder_prints_is_bounded_and_escaped_in_the_log(capfd: pytest.CaptureFixture[str]):
    with structlog.testing.capture_logs() as logs, HostileSandbox() as hostile:
        hostile.open(told_to("print"), 64).close()
        deadline = time.monotonic() + 10
        while not logs and time.monotonic() < deadline:
            time.sleep(0.01)
    (said,) = [entry for entry in logs if entry["event"] == "decoder_wrote"]
    assert said["lines"] == ["one\\x1b[31m", "x" * 300, "\\xff"]
    assert capfd.readouterr().err == ""


def test_a_decoder_that_prints_without_end_fills_no_log_and_waits_for_nobody():
    with structlog.testing.capture_logs() as logs, HostileSandbox() as hostile:
        hostile.open(told_to("print without end"), 64).close()
    told = [line for entry in logs if entry["event"] == "decoder_wrote" for line in entry["lines"]]
    assert 50 <= len(told) <= 100  # a minute may begin meanwhile


def test_a_fork_server_that_cannot_start_says_why():
    class MissingSandbox(Sandbox):
        entry = ("-m", "tests.no_such_child")

    with pytest.raises(SandboxError, match="no_such_child"):
        MissingSandbox().start()


def test_a_decoder_that_hangs_up_and_lives_on_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_STATUS_SECONDS", 0.5)
    with HostileSandbox() as hostile:
        error = failure(hostile, told_to("hang up"))
        assert (error.code, "closed its connection" in error.message) == (ErrorCode.DECODE_CRASHED, True)
        await_children(server_pid(hostile), 0)


#: A decoder that sleeps has waited for a processor, for all that its processor time shows.
_LONG_NAP = "nap for longer than it may compute"


def test_a_busy_machine_does_not_end_a_sound_image():
    with HostileSandbox(cpu_seconds=1) as hostile, hostile.open(told_to(_LONG_NAP), 64) as opened:
        assert (opened.facts.width, opened.facts.height) == (64, 48)


def test_children_take_turns_and_no_time_runs_out_while_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_TURNS", 1)
    with HostileSandbox(idle_seconds=1) as hostile, ThreadPoolExecutor(3) as crowd:
        began = time.monotonic()
        sleepers = [crowd.submit(failure, hostile, told_to("sleep")) for _ in range(2)]
        innocent = crowd.submit(hostile.open, told_to("nap"), 64)
        assert [sleeper.result().code for sleeper in sleepers] == [ErrorCode.DECODE_CRASHED] * 2
        assert time.monotonic() - began >= 2
        innocent.result().close()


def test_a_worker_that_stood_still_does_not_blame_the_file():
    """A machine may be stopped in the middle of a decoding, and go on: nobody waited for the decoder meanwhile."""
    program = textwrap.dedent("""
        from tests.support.bad_images import photograph, saved
        from worker.sandbox.sandbox import Sandbox

        class NappingSandbox(Sandbox):
            entry = ("-m", "tests.support.hostile_child")

        with NappingSandbox(idle_seconds=1.5) as sandbox:
            print(sandbox.server_pid, flush=True)
            print(sandbox.open(saved(photograph(), "PNG") + b"|nap", 64).facts.width, flush=True)
    """)
    worker = _worker(program)
    with worker:
        assert worker.stdout is not None
        await_children(int(worker.stdout.readline()), 1)
        worker.send_signal(signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(2)  # the standing still itself: there is nothing to wait for
        worker.send_signal(signal.SIGCONT)
        assert worker.stdout.readline() == "64\n"


def test_an_answer_that_drips_has_an_end():
    ours, theirs = socket.socketpair()
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.01):
            theirs.send(b"\0")

    dripping = threading.Thread(target=drip)
    with ours, theirs:
        theirs.send(struct.pack("!II", 2, 1 << 20) + b"{}")  # a header, and the promise of a mebibyte
        dripping.start()
        with pytest.raises(TimeoutError):
            protocol.receive(ours, 1 << 20, protocol.Allowance(0.5))
        over.set()
        dripping.join()


def test_a_request_that_nobody_reads_has_an_end():
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(TimeoutError):
        protocol.send(ours, {}, bytes(1 << 24), within=protocol.Allowance(0.5))


@pytest.mark.parametrize(
    "behaviour",
    [
        "noise",
        "endless",
        "deep",
        "no object",
        "short x",
        "x is no number",
        "x is large",
        "no facts",
        "a size beyond the limits",
        "a caveat of its own",
        "an unknown code",
        "an error of another shape",
        "an endless size",
        "a size that is no number",
        "a size in words",
        "a size that is true",
        "a size of many digits",
        "caveats in a text",
        "a caveat in a list",
        "a caveat twice",
        "another media type",
        "a format of another media type",
        "a format in a list",
        "a quality of what is no JPEG",
        "no measure of the content",
        "a content in a list",
        "a part of the content",
        "a content of another image",
        "a side that is true",
        "an endless relief",
        "a relief that is no number",
        "a relief in words",
        "a share of less than nothing",
        "a share of more than all",
        "a code that blames the service",
        "a message that is no text",
        "a code in a list",
    ],
)
def test_an_answer_that_cannot_be_true_is_refused(behaviour: str, hostile: HostileSandbox):
    error = failure(hostile, told_to(behaviour))
    assert (error.code, "impossible answer" in error.message) == (ErrorCode.DECODE_CRASHED, True)


@pytest.mark.parametrize("behaviour", ["a quality that is true", "a quality beyond the best", "a quality in words"])
def test_a_quality_that_cannot_be_true_is_refused(behaviour: str, hostile: HostileSandbox):
    error = failure(hostile, saved(photograph(), "JPEG") + b"|" + behaviour.encode())
    assert (error.code, "impossible answer" in error.message) == (ErrorCode.DECODE_CRASHED, True)


@pytest.mark.parametrize(
    "behaviour",
    [
        "pictures that are none",
        "pictures of other lengths",
        "pictures without end",
        "pictures of less than nothing",
        "pictures of some length",
        "pictures without lengths",
        "pictures not asked for",
        "a picture too many",
    ],
)
def test_pictures_that_cannot_be_true_are_refused(behaviour: str, hostile: HostileSandbox):
    with hostile.open(told_to(behaviour), 64) as image, pytest.raises(JobError, match="impossible answer"):
        image.render(_EPS, _MEAN, {"heatmap"})


def test_what_is_only_promised_takes_no_memory():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(struct.pack("!II", 2, 400_000_000) + b"{}" + bytes(1000))
        theirs.shutdown(socket.SHUT_WR)
        tracemalloc.start()
        with pytest.raises(EOFError):
            protocol.receive(ours, 480_000_000)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4_000_000


def test_a_lie_and_a_crash_are_told_to_the_log(hostile: HostileSandbox):
    with structlog.testing.capture_logs() as logged:
        failure(hostile, told_to("an endless size"))
        failure(hostile, told_to("segfault"))
        failure(hostile, _PNG[:100])
    told = [entry for entry in logged if entry["event"] != "decoder_wrote"]  # where it crashed
    assert [(entry["event"], entry["log_level"]) for entry in told] == [
        ("decoder_answer_refused", "warning"),
        ("decoder_crashed", "warning"),
    ]


@pytest.fixture
def a_thousand_descriptors() -> Iterator[None]:
    """So many are in use that each new one has a number beyond what select.select knows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    yield
    for fd in opened:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("a_thousand_descriptors")
def test_a_worker_with_many_descriptors_is_told_how_a_child_ended():
    with HostileSandbox() as hostile:
        assert "SIGSEGV" in failure(hostile, told_to("segfault")).message
        with hostile.open(told_to("behave"), 64) as image:
            assert image.render(_EPS, _MEAN, PICTURES)


def test_a_childs_words_are_cut_and_made_plain(hostile: HostileSandbox):
    message = failure(hostile, told_to("long message")).message
    assert len(message) == 300
    assert message.isprintable()


def test_a_child_inherits_and_opens_nothing(
    hostile: HostileSandbox, unfiltered: UnfilteredSandbox, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DISTILDIRE_SECRET_KEY", "not for decoders")
    with HostileSandbox() as started_now, hostile.open(told_to("behave"), 64):
        assert "DISTILDIRE" not in failure(started_now, told_to("tell the environment")).message
    assert failure(unfiltered, told_to("tell the descriptors")).message == "descriptors [0, 1, 2, 3]"
    assert failure(unfiltered, told_to("open a file")).message == "not opened: Too many open files"
    assert failure(unfiltered, told_to("tell the limits")).message == "core (0, 0), file size (0, 0)"


def test_the_kernel_refuses_a_child_everything_but_computing(hostile: HostileSandbox):
    assert failure(hostile, told_to("try what is forbidden")).message == "allowed []"
    with hostile.open(told_to("start a thread"), 64) as image:
        assert image.facts.width == 64


def test_a_machine_that_does_not_know_the_wall_is_told_to_the_log(monkeypatch: pytest.MonkeyPatch):
    with structlog.testing.capture_logs() as logged:
        with Sandbox():
            assert logged == []
        monkeypatch.setattr(platform, "machine", lambda: "riscv64")
        with Sandbox():
            assert [entry["event"] for entry in logged] == ["sandbox_without_wall"]


def test_no_child_and_no_descriptor_is_left_behind(sandbox: Sandbox):
    with sandbox.open(_PNG, 64):
        before = descriptors()
    for data in (_PNG, b"", REFUSED[-1].data, REFUSED[7].data):
        with contextlib.suppress(JobError):
            sandbox.open(data, 64).close()
    await_children(server_pid(sandbox), 0)
    assert descriptors() == before - 2


def test_many_threads_get_each_their_own_image(sandbox: Sandbox):
    photographs = [photograph(64 + i, 48) for i in range(24)]

    def job(index: int) -> OpenedImage:
        with sandbox.open(saved(photographs[index], "PNG"), 32) as image:
            np.testing.assert_array_equal(image.x, preprocess(photographs[index], 32))
            return image

    with ThreadPoolExecutor(8) as threads:
        assert [image.facts.width for image in threads.map(job, range(24))] == [64 + i for i in range(24)]
    await_children(server_pid(sandbox), 0)


def test_the_server_is_replaced_after_its_death():
    with Sandbox() as sandbox:
        first = server_pid(sandbox)
        image = sandbox.open(_PNG, 64)
        with ends(first, *await_children(first, 1)):
            os.kill(first, signal.SIGKILL)
        with pytest.raises(JobError) as failed:
            image.render(_EPS, _MEAN, PICTURES)
        assert (failed.value.code, failed.value.retryable) == (ErrorCode.INTERNAL, True)
        image.close()
        with sandbox.open(_PNG, 64) as again:
            assert again.facts.width == 64
        assert server_pid(sandbox) != first


def test_an_image_that_kills_the_server_is_given_up_after_two_tries(unfiltered: UnfilteredSandbox):
    assert failure(unfiltered, told_to("kill the server")).code == ErrorCode.INTERNAL
    with unfiltered.open(told_to("behave"), 64) as image:
        assert image.facts.width == 64


def test_a_server_that_cannot_start_is_an_error():
    class Broken(Sandbox):
        entry = ("-c", "raise SystemExit(1)")

    with pytest.raises(SandboxError):
        Broken().start()


def test_closing_ends_every_child():
    sandbox = HostileSandbox()
    sandbox.start()
    server = server_pid(sandbox)
    outcome: list[Exception] = []

    def job() -> None:
        try:
            sandbox.open(told_to("spin"), 64)
        except SandboxError as error:
            outcome.append(error)

    thread = threading.Thread(target=job)
    with ends(server):
        thread.start()
        with ends(*await_children(server, 1)):
            sandbox.close()
    thread.join()
    assert isinstance(outcome[0], SandboxError)


_WORKER = """
    import threading
    from tests.support.bad_images import photograph, saved
    from tests.support.hostile_child import behave
    from worker.sandbox.sandbox import Sandbox

    class HostileSandbox(Sandbox):
        entry = ("-m", "tests.support.hostile_child")

    sandbox = HostileSandbox()
    sandbox.start()
    data = saved(photograph(), "PNG") + b"|"
    idle = sandbox.open(data + b"behave", 64)
    threading.Thread(target=sandbox.open, args=(data + b"spin", 64)).start()
    print(sandbox.server_pid, flush=True)
"""


def test_kill_9_of_the_worker_leaves_no_process():
    worker = _worker(textwrap.dedent(_WORKER))
    with worker:
        assert worker.stdout is not None
        server = int(worker.stdout.readline())
        with ends(server, *await_children(server, 2)):
            worker.kill()
