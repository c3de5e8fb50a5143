"""The embedded servers: they keep data, ports and passwords, refuse strangers, and end with their owner."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest
import redis
from minio import Minio
from minio.error import S3Error

from deploy.local.credentials import load_credentials
from deploy.local.postgres import NOBODY, USER_NAMESPACE
from deploy.local.process_identity import ProcessIdentity
from deploy.local.process_registry import DataDirInUseError, ProcessRegistry
from deploy.local.processes import ProcessEndedError
from deploy.local.services import LocalServices, ServiceUrls

_ROOT = os.geteuid() == 0
Contents = tuple[str, bytes, bytes]  # of PostgreSQL, Valkey and the store


@pytest.fixture(scope="module")
def shared_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServices]:
    """Services that no test stops or changes."""
    with LocalServices(tmp_path_factory.mktemp("local") / "data") as services:
        services.start()
        yield services


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalServices]:
    with LocalServices(tmp_path / "data") as services:
        yield services


def test_data_ports_and_passwords_survive_a_restart(local: LocalServices):
    before = local.start()
    _write(before)
    local.stop()

    after = local.start()

    assert after == before
    assert _read(after) == ("kept in PostgreSQL", b"kept in Valkey", b"kept in the store")


def test_a_port_that_somebody_took_meanwhile_is_replaced(local: LocalServices):
    taken = urlsplit(local.start().redis_url).port
    local.stop()
    with socket.create_server(("127.0.0.1", taken or 0)):
        urls = local.start()
        assert urlsplit(urls.redis_url).port != taken
        with redis.Redis.from_url(urls.redis_url) as client:
            assert client.ping()


def test_only_the_password_opens_a_server(shared_local: LocalServices):
    urls = shared_local.urls
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(_with_password(urls.database_url, "wrong"))
    with redis.Redis.from_url(_with_password(urls.redis_url, "wrong")) as client, pytest.raises(redis.RedisError):
        client.ping()
    with pytest.raises(S3Error, match="AccessDenied"):
        _store(replace(urls, s3_secret_key="wrong")).bucket_exists(urls.s3_bucket)


def test_no_secret_can_be_read_by_other_users(shared_local: LocalServices):
    urls = shared_local.urls
    secrets = [urlsplit(urls.database_url).password, urlsplit(urls.redis_url).password, urls.s3_secret_key]
    command_lines = b"".join(
        Path(f"/proc/{child.pid}/cmdline").read_bytes() for child in shared_local.children.values()
    )

    assert not [secret for secret in secrets if secret and secret.encode() in command_lines]
    for name in ("credentials.json", "valkey/valkey.conf"):
        path = shared_local.data_dir / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_servers_listen_on_loopback_only(shared_local: LocalServices):
    ports = {f"{port:04X}" for port in shared_local.claim().ports.values()}
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line]
    addresses = {address.partition(":")[0] for address in listening if address.partition(":")[2] in ports}
    assert addresses == {"0100007F"}


def test_a_server_that_cannot_start_is_reported_at_once_with_its_log(local: LocalServices, tmp_path: Path):
    local.start()
    local.stop()
    with (tmp_path / "data" / "postgres" / "postgresql.conf").open("a") as configuration:
        configuration.write("no_such_setting = 1\n")

    began = time.monotonic()
    with pytest.raises(ProcessEndedError, match=r'(?s)postgres ended with exit code 1.*"no_such_setting"'):
        local.start()

    assert time.monotonic() - began < 30
    assert local.children == {}


def test_start_starts_what_is_missing_and_leaves_the_rest_alone(local: LocalServices):
    urls = local.start()
    before = {name: child.pid for name, child in local.children.items()}
    os.kill(before["valkey"], signal.SIGKILL)
    _await(lambda: not local.is_running("valkey"))

    assert local.start() == urls

    after = {name: child.pid for name, child in local.children.items()}
    assert {name for name in after if after[name] != before[name]} == {"valkey"}


def test_a_data_directory_has_one_owner(local: LocalServices, tmp_path: Path):
    local.claim()
    with pytest.raises(DataDirInUseError):
        LocalServices(tmp_path / "data").start()


def test_servers_end_when_their_owner_is_killed(tmp_path: Path):
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, str(tmp_path / "data")], stdout=subprocess.PIPE)
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"started\n"
        servers = ProcessRegistry(tmp_path / "data").read()
        assert [identity.alive for identity in servers.values()] == [True] * 3
        owner.kill()

    try:
        _await(lambda: not any(identity.alive for identity in servers.values()))
    finally:
        for identity in servers.values():
            identity.end(signal.SIGKILL, seconds=5)


def test_what_a_killed_owner_left_is_ended_but_no_stranger(tmp_path: Path):
    strays = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2)]
    leftover, stranger = (ProcessIdentity.of(process.pid) for process in strays)
    assert leftover is not None
    assert stranger is not None
    registry = ProcessRegistry(tmp_path)
    registry.record("valkey", leftover)
    registry.record("s3", ProcessIdentity(stranger.pid, "another boot:1"))  # the id was given to somebody else since

    assert registry.end_leftovers() == ["valkey"]

    assert not leftover.alive
    assert stranger.alive
    for process in strays:
        process.kill()
        process.wait()


@pytest.mark.skipif(not _ROOT, reason="needs root to drop its rights")
@pytest.mark.parametrize("prefixes", [(USER_NAMESPACE, NOBODY), (NOBODY, USER_NAMESPACE)])
def test_root_runs_postgres_either_way_on_the_same_data(tmp_path: Path, prefixes: Sequence[Sequence[str]]):
    for prefix in prefixes:
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
            pytest.skip(f"{prefix[0]} does not work here")
    written = _start_and_stop(LocalServices(tmp_path / "data", prefixes[0]), _write)
    assert _start_and_stop(LocalServices(tmp_path / "data", prefixes[1]), _read) == written


@pytest.mark.skipif(
    not _ROOT, reason="only root can become another user; as a normal user all tests here are that test"
)
def test_a_normal_user_can_run_it():
    folder = Path(tempfile.mkdtemp(prefix="distildire-user-"))  # below no folder of root's own, unlike tmp_path
    try:
        shutil.chown(folder, 65534, 65534)
        command = [*NOBODY, "env", f"HOME={folder}", sys.executable, "-c", _OWNER, str(folder / "data")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"started\n"
            postgres = ProcessRegistry(folder / "data").read()["postgres"]
            assert Path(f"/proc/{postgres.pid}").stat().st_uid == 65534
        assert owner.returncode == 0
    finally:
        shutil.rmtree(folder)


#: A process that owns services until its standard input ends.
_OWNER = """
import sys
from pathlib import Path
from deploy.local.services import LocalServices
with LocalServices(Path(sys.argv[1])) as services:
    services.start()
    print("started", flush=True)
    sys.stdin.read()
"""


def _start_and_stop(services: LocalServices, action: Callable[[ServiceUrls], Contents]) -> Contents:
    with services:
        return action(services.start())


def _write(urls: ServiceUrls) -> Contents:
    connection = psycopg2.connect(urls.database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept (value text)")
        cursor.execute("INSERT INTO kept VALUES ('kept in PostgreSQL')")
    connection.close()
    with redis.Redis.from_url(urls.redis_url) as client:
        client.set("kept", "kept in Valkey")
    _store(urls).put_object(urls.s3_bucket, "kept", BytesIO(b"kept in the store"), 17)
    return _read(urls)


def _read(urls: ServiceUrls) -> Contents:
    connection = psycopg2.connect(urls.database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT value FROM kept")
        (row,) = cursor.fetchall()
    connection.close()
    with redis.Redis.from_url(urls.redis_url) as client:
        cached = client.get("kept")
    response = _store(urls).get_object(urls.s3_bucket, "kept")
    stored = response.read()
    response.close()
    assert isinstance(cached, bytes)
    return row[0], cached, stored


def _store(urls: ServiceUrls) -> Minio:
    return Minio(
        urlsplit(urls.s3_endpoint).netloc,
        access_key=urls.s3_access_key,
        secret_key=urls.s3_secret_key,
        secure=False,
        region="us-east-1",
    )


def _with_password(url: str, password: str) -> str:
    return url.replace(f":{urlsplit(url).password}@", f":{password}@")


def _await(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_credentials_of_an_older_release_are_kept_and_completed(tmp_path: Path):
    made = load_credentials(tmp_path)
    path = tmp_path / "credentials.json"
    older = json.loads(path.read_text())
    del older["api_password"], older["worker_password"]
    path.write_text(json.dumps(older))
    completed = load_credentials(tmp_path)
    assert replace(completed, api_password=made.api_password, worker_password=made.worker_password) == made
    assert load_credentials(tmp_path) == completed
