"""What a power cut leaves in a data directory keeps nothing from coming up, and every name of one can be used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
import redis

from deploy.local.credentials import load_credentials
from deploy.local.process_identity import ProcessIdentity
from deploy.local.process_registry import DataDirInUseError, FileLock, ProcessRegistry
from deploy.local.processes import StackError
from deploy.local.services import LocalServices
from deploy.local.stack_file import StackDocument, running_stack
from deploy.local.state_files import DamagedError, write_private
from deploy.local.supervisor import read_state
from shared.workers.procfs import working_in

#: What a file may hold after a power cut, a full disk or somebody's editor.
DAMAGE = [
    *(b"", b"\0" * 64, b"{", b"[]", b"null", b'"text"', b"{}x", b"\xff\xfe", b"[" * 9999),
    b'{"pid": "1", "started": null}',
]


@contextmanager
def damaged_after_a_crash(data_dir: Path, damage: Callable[[Path], object]) -> Iterator[list[str]]:
    """Start the services, have everything killed, do the damage, start them again; yield what was told."""
    told: list[str] = []
    with LocalServices(data_dir) as services:
        services.start()
        for child in services.children.values():
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        services.stop()
    damage(data_dir)
    with LocalServices(data_dir, notice=told.append) as services:
        urls = services.start()
        psycopg2.connect(urls.database_url).close()
        with redis.Redis.from_url(urls.redis_url) as client:
            client.ping()
        yield told


def _append_zeros(data_dir: Path) -> None:
    (file,) = data_dir.glob("valkey/appendonlydir/*.incr.aof")
    file.write_bytes(file.read_bytes() + b"\0" * 64)


def _empty_manifest(data_dir: Path) -> None:
    (data_dir / "valkey/appendonlydir/appendonly.aof.manifest").write_bytes(b"")


def _garbled_base(data_dir: Path) -> None:
    (file,) = data_dir.glob("valkey/appendonlydir/*.base.rdb")
    file.write_bytes(b"\xff" * 100)


def _missing_part(data_dir: Path) -> None:
    (file,) = data_dir.glob("valkey/appendonlydir/*.base.rdb")
    file.unlink()


@pytest.mark.parametrize("damage", [_append_zeros, _empty_manifest, _garbled_base, _missing_part])
def test_damaged_data_of_valkey_are_set_aside_with_a_word(tmp_path: Path, damage: Callable[[Path], None]):
    with damaged_after_a_crash(tmp_path / "data", damage) as told:
        assert [word for word in told if "Valkey could not read its data" in word]
        assert (tmp_path / "data/valkey/damaged").is_dir()


def test_a_pid_file_that_names_a_living_stranger_is_overruled(tmp_path: Path):
    stranger = subprocess.Popen(["sleep", "600"])

    def name_the_stranger(data_dir: Path) -> None:
        file = data_dir / "postgres/postmaster.pid"
        file.write_text("\n".join([str(stranger.pid), *file.read_text().splitlines()[1:]]))

    try:
        with damaged_after_a_crash(tmp_path / "data", name_the_stranger):
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 40, b"nonsense\n", b"-17\n"], ids=["empty", "zeros", "text", "negative"]
)
def test_a_damaged_pid_file_is_overruled(tmp_path: Path, content: bytes):
    file = tmp_path / "data/postgres/postmaster.pid"
    with damaged_after_a_crash(tmp_path / "data", lambda _: file.write_bytes(content)):
        assert int(file.read_text().split()[0]) in working_in(file.parent)


def test_a_server_that_still_runs_on_the_cluster_is_not_overruled(tmp_path: Path):
    with LocalServices(tmp_path / "data") as services:
        services.start()
        pid = services.children["postgres"].pid
        (tmp_path / "data/processes.json").unlink()  # nobody remembers that it was started
        (tmp_path / "data/owner.lock").unlink()  # nor that it is owned
        with (
            pytest.raises(StackError, match=f"PostgreSQL already runs .* process {pid}"),
            LocalServices(tmp_path / "data") as second,
        ):
            second.start()
        psycopg2.connect(services.urls.database_url).close()


def test_an_empty_cluster_of_an_unfinished_start_is_made_anew(tmp_path: Path):
    load_credentials(_made(tmp_path / "data"))
    (tmp_path / "data/postgres").mkdir()
    with LocalServices(tmp_path / "data") as services:
        psycopg2.connect(services.start().database_url).close()
        assert (tmp_path / "data/postgres/PG_VERSION").exists()


@pytest.mark.parametrize("content", DAMAGE)
def test_damaged_state_is_told_and_read_as_nothing(tmp_path: Path, content: bytes):
    names = ("processes.json", "supervisor.json", "stack.json")
    for name in names:
        (tmp_path / name).write_bytes(content)
    assert read_state(tmp_path) is None
    assert ProcessRegistry(tmp_path).read() == {}
    assert StackDocument.read(tmp_path) is None
    with pytest.raises(DamagedError, match="`distildire up` writes it again"):
        running_stack(tmp_path)
    told: list[str] = []
    LocalServices(tmp_path, notice=told.append).claim()
    assert ProcessRegistry(tmp_path).read_strictly() == {}
    assert told[:3] == [f"{name} was damaged, as by a power cut; it is written again." for name in names]


def test_the_document_of_a_living_stack_that_is_damaged_is_named(tmp_path: Path):
    me = ProcessIdentity.of(os.getpid())
    assert me is not None
    ProcessRegistry(tmp_path).record("api", me)
    (tmp_path / "stack.json").write_text('{"api_url": "http://127.0.0.1:8')
    with pytest.raises(DamagedError, match=r"stack\.json is damaged"):
        running_stack(tmp_path)


@pytest.mark.parametrize("content", [*DAMAGE, None])
def test_damaged_credentials_come_back_from_their_copy(tmp_path: Path, content: bytes | None):
    made = load_credentials(tmp_path)
    (tmp_path / "postgres").mkdir()
    file, told = tmp_path / "credentials.json", list[str]()
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    assert load_credentials(tmp_path, told.append) == made
    assert "credentials.json was damaged or gone" in told[0]
    assert json.loads(file.read_text())["secret_key"] == made.secret_key


@pytest.mark.parametrize("content", [b"", None])
def test_lost_credentials_of_data_that_are_there_are_never_made_anew(tmp_path: Path, content: bytes | None):
    load_credentials(tmp_path)
    (tmp_path / "postgres").mkdir()
    for file in (tmp_path / "credentials.json", tmp_path / "credentials.copy.json"):
        file.unlink()
        if content is not None:
            file.write_bytes(content)
    with pytest.raises(StackError, match="Put one back from a backup"):
        load_credentials(tmp_path)


def test_a_state_file_is_on_the_disk_before_it_has_its_name_and_then_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[tuple[str, str]] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        sync(descriptor)
        at = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((at.name, (tmp_path / "state").read_text()))

    (tmp_path / "state").write_text("before")
    monkeypatch.setattr(os, "fsync", note)
    write_private(tmp_path / "state", "after")
    assert synced == [(f".state.{os.getpid()}", "before"), (tmp_path.name, "after")]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600


def test_who_holds_a_data_directory_is_named(tmp_path: Path):
    with FileLock(tmp_path / "owner.lock"), pytest.raises(DataDirInUseError, match=f"by process {os.getpid()}"):
        FileLock(tmp_path / "owner.lock").acquire()


@pytest.mark.parametrize("name", ['a "b" \\c', "new\nline", "é ü 日本", "$(x) `y` %h {z} 'q' #", b"b\xff", "d" * 200])
def test_a_data_directory_may_have_any_name(tmp_path: Path, name: str | bytes):
    data_dir = tmp_path / os.fsdecode(name)
    for _ in range(2):  # made, and found again
        with LocalServices(data_dir) as services:
            urls = services.start()
            psycopg2.connect(urls.database_url).close()
            assert (data_dir / "valkey/appendonlydir").is_dir()


def test_a_path_that_is_too_long_for_postgres_is_named_at_once(tmp_path: Path):
    data_dir = tmp_path.joinpath(*["d" * 200] * 5)
    with pytest.raises(StackError, match=r"has \d+ bytes.*shorter --data-dir"):
        LocalServices(data_dir).start()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
