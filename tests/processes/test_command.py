"""The command as people use it, against a real stack: odd files, Ctrl-C, jobs that nobody takes.

The tests of this file share one stack and run in the order in which they stand.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.test_stack import Stack
from tests.processes.worker_processes import wait_until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("command"))
    stack.up()
    yield stack
    stack.down()


def documents(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    assert "Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_name_that_is_no_text_is_sent_like_any_other(stack: Stack, tmp_path: Path):
    names = [b"a.png", b"b\xff.png", b"c\n.png", b"x" * 251 + b".png"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(stack.image.read_bytes())

    done = stack.run("submit", "--json", *(str(tmp_path / os.fsdecode(name)) for name in names))

    assert done.returncode == 0, done.stderr
    found = documents(done)
    assert [os.fsencode(str(each["file"])) for each in found] == [os.fsencode(tmp_path) + b"/" + name for name in names]
    assert all(each["status"] == "queued" for each in found)


@pytest.mark.parametrize("source", ["<(cat {})", "/dev/stdin < {}", "/dev/stdin < <(cat {})"])
def test_a_pipe_is_read_once_and_sent(stack: Stack, source: str):
    command = shlex.join(stack.command_line("submit", "--json"))
    line = f"{command} {source.format(shlex.quote(str(stack.image)))}"
    done = subprocess.run(
        ["bash", "-c", line], env=stack.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert documents(done)[0]["status"] == "queued"


def test_a_folder_is_sent_where_that_is_asked_and_refusals_are_no_results(stack: Stack, tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(stack.image.read_bytes())
    (tmp_path / "in/bad.png").write_bytes(b"no image")
    assert stack.run("submit", str(tmp_path)).returncode == 2

    done = stack.run("submit", "--recursive", "--wait", str(tmp_path))

    assert done.returncode == 1
    assert "bad.png: " in done.stderr
    assert "bad.png" not in done.stdout
    assert f"{tmp_path}/in/a.png: " in done.stdout


def test_ctrl_c_names_what_goes_on_and_how_to_follow_or_end_it(stack: Stack):
    worker = stack.document()["pids"]["analysis_worker"]
    os.kill(worker, signal.SIGSTOP)
    try:
        command = stack.command_line("submit", "--wait", str(stack.image), str(stack.image))
        waiting = started(stack, command)
        wait_until(lambda: len(_open(stack)) == 2, 60)
        first, second = sorted(_open(stack))
        told = interrupted(waiting)
        assert told.splitlines()[0] == "Stopped."
        assert {line.split()[0] for line in told.splitlines()[2:]} == {first, second}
        assert f"distildire jobs wait --data-dir {stack.data_dir} ID…" in told
        assert f"distildire jobs cancel --data-dir {stack.data_dir} ID…" in told
        shown = stack.run("jobs", "show", first)
        assert shown.stdout.split()[:2] == [first, "queued"]
        following = started(stack, stack.command_line("jobs", "wait", first, second))
        assert stack.run("jobs", "cancel", second).stdout.split()[:2] == [second, "canceled"]
        assert following.stderr is not None
        assert following.stderr.readline() == f"{second}: canceled\n"
        told = interrupted(following)
        assert told.splitlines()[2:] == [first], "the one that goes on"
    finally:
        os.kill(worker, signal.SIGCONT)
    followed = stack.run("jobs", "wait", "--json", first)
    assert followed.returncode == 0, followed.stderr
    assert documents(followed)[0]["status"] == "succeeded"
    assert stack.run("jobs", "wait", second).returncode == 1  # it was canceled
    for words in (("show",), ("cancel",), ("wait",), ("wait", "--json")):
        refused = stack.run("jobs", *words, "00000000-0000-0000-0000-000000000000")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "00000000" in refused.stderr
    ended = stack.run("jobs", "cancel", first)
    assert (ended.returncode, ended.stdout, "job_already_finished" in ended.stderr) == (1, "", True)


def test_who_waits_where_nobody_works_is_told(stack: Stack):
    os.kill(stack.document()["pids"]["analysis_worker"], signal.SIGKILL)
    wait_until(lambda: stack.document()["pids"]["analysis_worker"] is None, 30)
    command = stack.command_line("submit", "--wait", str(stack.image))
    with subprocess.Popen(
        command, env=stack.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stderr is not None
        assert waiting.stdout is not None
        told = waiting.stderr.readline()
        assert "No analysis worker is running" in told
        assert "distildire doctor" in told
        stack.up()
        told = waiting.stdout.read()
    assert waiting.returncode == 0
    assert f"{stack.image}: " in told


def test_a_terminal_that_knows_ascii_alone_stops_nothing(stack: Stack, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(stack.environment, "PYTHONIOENCODING", "ascii")
    for command in (("doctor",), ("--help",), ("top", "--once"), ("jobs", "list")):
        line = [sys.executable, "-m", "deploy.cli", *command]
        done = subprocess.run(line, env=stack.environment, cwd=stack.data_dir, capture_output=True, check=False)
        assert b"Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, 1)


def test_a_manifest_of_something_else_is_passed_over_with_a_word(stack: Stack, tmp_path: Path):
    (tmp_path / "smp").mkdir()
    (tmp_path / "smp/x.png").write_bytes(stack.image.read_bytes())
    (tmp_path / "smp/x.jpg").write_bytes(stack.image.read_bytes())
    (tmp_path / "smp/manifest.csv").write_bytes(b"name,label\nx.png,fake\xff\n")

    done = stack.run("demo", "--samples", str(tmp_path / "smp"), "--output", str(tmp_path / "pictures"))

    assert done.returncode == 0, done.stderr
    assert "has no columns" in done.stderr
    assert len(list((tmp_path / "pictures").iterdir())) == 6  # three of each image


def started(stack: Stack, command: list[str]) -> subprocess.Popen[str]:
    """A command that Ctrl-C ends, as at a terminal: what tests start that run in the background would ignore it."""
    return subprocess.Popen(
        ["env", "--default-signal=INT", *command],
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupted(command: subprocess.Popen[str]) -> str:
    """What a command says after Ctrl-C on standard error."""
    command.send_signal(signal.SIGINT)
    _, told = command.communicate(timeout=60)
    assert command.returncode == 130, told
    assert "Traceback" not in told
    return told


def _open(stack: Stack) -> list[str]:
    rows = stack.run("jobs", "list", "--json").stdout.splitlines()
    return [json.loads(row)["id"] for row in rows]
