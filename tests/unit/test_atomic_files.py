"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from worker.atomic_files import sweep, write_whole


def test_processes_of_one_id_write_one_file_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of two containers that share a folder."""
    usual, path = os.fsync, tmp_path / "shard"

    def meanwhile(number: int) -> None:
        usual(number)
        monkeypatch.setattr(os, "fsync", usual)
        write_whole(path, b"the other's")

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_whole(path, b"mine")
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_number: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "shard", b"mine")
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_swept_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    for name in ("old", "new"):
        _write_until_killed(tmp_path / name)
    (old,), (new,) = tmp_path.glob("old.*.partial"), tmp_path.glob("new.*.partial")
    whole, download = tmp_path / "a", tmp_path / "adm.pt.partial"  # `models fetch` goes on from that one
    for path in (whole, download):
        path.touch()
    for path in (old, whole, download):
        os.utime(path, (0, 0))
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == [whole, download, new]


def _write_until_killed(path: Path) -> None:
    """Begin to write a file in a process that dies before it ends."""
    program = f"""
import os, signal
from pathlib import Path
from worker.atomic_files import write_whole
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
write_whole(Path({str(path)!r}), b"half")
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
