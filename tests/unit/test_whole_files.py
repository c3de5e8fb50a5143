"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker.model.whole_files import sweep, write_whole


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
    old, new, whole = (tmp_path / name for name in ("a.1.partial", "a.2.partial", "a"))
    for path in (old, new, whole):
        path.touch()
    for path in (old, whole):
        os.utime(path, (0, 0))
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == [whole, new]
