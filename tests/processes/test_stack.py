"""`distildire up` and `down` with the whole stack: real servers, gunicorn, Celery workers and beat.

The tests of this file share one data directory and run in the order in which they stand: starting costs seconds.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from deploy.local.process_identity import ProcessIdentity
from deploy.local.process_registry import ProcessRegistry
from deploy.local.supervisor import read_state
from shared.client import Client
from tests.support.ports import free_ports
from tests.support.tiny_model import NAME, write_model

_NAMES = {"api", "analysis_worker", "webhook_worker", "beat", "postgres", "valkey", "s3"}
_UP_SECONDS = 240  # on two busy cores


class Stack:
    """The command, used on one data directory."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.port = free_ports(1)[0]
        models = folder / "models"
        models.mkdir()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DISTILDIRE_")}
        self.environment = {
            **inherited,
            "DISTILDIRE_MODELS_DIR": str(write_model(models)),
            "DISTILDIRE_MODEL": NAME,
            "OMP_NUM_THREADS": "1",
        }
        self.image = folder / "image.png"
        Image.radial_gradient("L").convert("RGB").save(self.image)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `distildire` to its end."""
        return subprocess.run(
            self.command_line(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_UP_SECONDS,
            check=False,
        )

    def up(self, *options: str) -> dict[str, Any]:
        """Bring the stack up in the background and return stack.json."""
        done = self.run("up", "--detach", "--port", str(self.port), *options)
        assert done.returncode == 0, done.stderr
        return self.document()

    def foreground(self) -> subprocess.Popen[str]:
        """Start `distildire up`; it is not awaited."""
        return subprocess.Popen(self.command_line("up"), env=self.environment, stderr=subprocess.PIPE, text=True)

    def down(self) -> None:
        done = self.run("down")
        assert done.returncode == 0, done.stderr

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.data_dir / "stack.json").read_text())
        return document

    def processes(self) -> list[ProcessIdentity]:
        return list(ProcessRegistry(self.data_dir).read().values())

    def client(self) -> Client:
        document = self.document()
        return Client(document["api_url"], document["api_key"])

    def command_line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "deploy.cli", *arguments, "--data-dir", str(self.data_dir)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"))
    stack.up()
    yield stack
    stack.down()


def test_stack_json_says_where_everything_is_to_its_owner_alone(stack: Stack):
    path = stack.data_dir / "stack.json"
    document = stack.document()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(document) == {"api_url", "api_key", "database_url", "redis_url", "s3", "pids"}
    assert set(document["s3"]) == {"endpoint", "access_key", "secret_key", "bucket"}
    assert set(document["pids"]) == _NAMES
    assert {identity.pid for identity in stack.processes() if identity.alive} == set(document["pids"].values())
    assert document["api_url"] == f"http://127.0.0.1:{stack.port}"
    headers = {"Authorization": f"Bearer {document['api_key']}"}
    assert httpx.get(f"{document['api_url']}/v1/jobs", headers=headers).status_code == 200


def test_no_process_of_the_product_knows_the_password_of_the_databases_owner(stack: Stack):
    document = stack.document()
    password = document["database_url"].split(":")[2].split("@")[0].encode()
    for name in ("api", "analysis_worker", "webhook_worker", "beat"):
        environment = Path(f"/proc/{document['pids'][name]}/environ").read_bytes()
        assert b"DISTILDIRE_DATABASE_URL=" in environment, name
        assert password not in environment, name
    assert (
        "isolation of tenants: PostgreSQL keeps it for distildire_api, distildire_worker" in stack.run("doctor").stdout
    )


def test_no_secret_is_on_a_command_line(stack: Stack):
    document = stack.document()
    secrets = [document["api_key"], document["s3"]["secret_key"], document["database_url"].split(":")[2].split("@")[0]]
    lines = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in document["pids"].values())
    assert not [secret for secret in secrets if secret.encode() in lines]


def test_submit_waits_for_a_verdict_and_prints_json_alone(stack: Stack):
    done = stack.run("submit", "--wait", "--json", str(stack.image), str(stack.data_dir / "stack.json"), "missing.png")

    judged, refused, missing = [json.loads(line) for line in done.stdout.splitlines()]
    assert judged["result"]["prediction"] in ("REAL", "FAKE")
    assert judged["file"] == str(stack.image)
    assert refused["error"]["code"] == "unsupported_media_type"
    assert missing["error"]["code"] == "unreadable_file"
    assert done.returncode == 1  # not every image has a verdict


def test_submit_that_waited_long_enough_names_the_jobs_that_go_on(stack: Stack):
    done = stack.run("submit", "--wait", "--timeout", "0", str(stack.image))

    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert told.endswith(f"  {stack.image}")
    with stack.client() as client:
        assert client.wait([told.split()[0]], seconds=60)[0].status == "succeeded"


def test_demo_uses_the_running_stack_and_leaves_the_pictures(stack: Stack, tmp_path: Path):
    samples = tmp_path / "samples"
    samples.mkdir()
    (samples / "gradient.png").write_bytes(stack.image.read_bytes())
    (samples / "manifest.csv").write_text("file,kind\ngradient.png,fake\n")

    done = stack.run("demo", "--samples", str(samples), "--output", str(tmp_path / "demo"))

    assert done.returncode == 0, done.stderr
    assert "gradient.png (known to be generated): " in done.stdout
    assert "evidence, not proof" in done.stdout
    assert "demonstration model" in done.stdout
    assert "No policy was chosen" in done.stdout  # the one that ships is for the model that ships
    sizes = {}
    for path in (tmp_path / "demo").iterdir():
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
    assert sizes == {
        "gradient.dire_map.png": (32, 32),
        "gradient.heatmap.png": (256, 256),
        "gradient.overlay.png": (256, 256),
    }
    assert stack.document()["pids"]["api"] is not None  # it was not the demonstration's to stop


def test_keys_of_the_running_stack_work_until_they_are_revoked(stack: Stack):
    created = stack.run("keys", "create", "--tenant", "another")
    key = created.stdout.strip()
    rows = [json.loads(line) for line in stack.run("keys", "list", "--json").stdout.splitlines()]
    (key_id,) = [row["id"] for row in rows if row["tenant"] == "another"]
    headers = {"Authorization": f"Bearer {key}"}
    jobs = f"{stack.document()['api_url']}/v1/jobs"

    assert httpx.get(jobs, headers=headers).status_code == 200
    assert stack.run("keys", "revoke", key_id).returncode == 0
    assert httpx.get(jobs, headers=headers).status_code == 401
    assert stack.run("keys", "revoke", key_id).returncode == 1


def test_doctor_finds_nothing_wrong(stack: Stack):
    done = stack.run("doctor")
    assert done.returncode == 0, done.stdout
    assert f"local stack: runs at http://127.0.0.1:{stack.port}" in done.stdout


def test_doctor_tells_of_jobs_that_nobody_takes_and_of_an_api_that_ended(stack: Stack):
    pids = stack.document()["pids"]
    os.kill(pids["analysis_worker"], signal.SIGSTOP)  # it runs, and does nothing
    try:
        with stack.client() as client:
            job = client.submit(stack.image)
            done = _await_doctor(stack, "of 1 that wait the oldest")
            assert done.returncode == 1
            os.kill(pids["analysis_worker"], signal.SIGCONT)
            assert client.wait([job.id], seconds=60)[0].status == "succeeded"
    finally:
        os.kill(pids["analysis_worker"], signal.SIGCONT)
    os.kill(pids["api"], signal.SIGKILL)
    _await(lambda: stack.document()["pids"]["api"] is None)

    done = stack.run("doctor")

    assert "local stack: not whole: api → run `distildire up` again" in done.stdout
    assert "PostgreSQL: answers" in done.stdout  # the other parts are still found
    assert "The API of" in stack.run("submit", str(stack.image)).stderr
    assert "The API of" in stack.run("demo").stderr
    stack.up()


def test_up_again_starts_what_is_missing_and_leaves_the_rest_alone(stack: Stack):
    before = stack.document()
    for name in ("webhook_worker", "valkey"):
        os.kill(before["pids"][name], signal.SIGKILL)
    _await(lambda: stack.document()["pids"]["webhook_worker"] is None and stack.document()["pids"]["valkey"] is None)
    log = stack.data_dir / "logs" / "supervisor.log"
    _await(lambda: "webhook_worker was ended by SIGKILL" in log.read_text())

    after = stack.up()

    changed = {name for name in _NAMES if after["pids"][name] != before["pids"][name]}
    assert changed == {"webhook_worker", "valkey"}
    assert {**after, "pids": None} == {**before, "pids": None}
    assert {identity.pid for identity in stack.processes() if identity.alive} == set(after["pids"].values())


def test_a_full_disk_ends_nothing_that_runs(stack: Stack):
    before, owner = stack.document(), read_state(stack.data_dir)
    assert owner is not None
    limits = resource.prlimit(owner.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(owner.pid, resource.RLIMIT_FSIZE, (0, limits[1]))  # its writes fail, as on a full disk
    os.kill(before["pids"]["beat"], signal.SIGKILL)
    _await(lambda: not Path(f"/proc/{before['pids']['beat']}").exists())

    assert "local stack: not whole: beat" in stack.run("doctor").stdout
    assert owner.identity.alive

    resource.prlimit(owner.pid, resource.RLIMIT_FSIZE, limits)
    after = stack.up()
    assert {name for name in _NAMES if after["pids"][name] != before["pids"][name]} == {"beat"}


def test_a_stack_comes_up_again_whatever_a_power_cut_left(stack: Stack):
    document, owner = stack.document(), read_state(stack.data_dir)
    assert owner is not None
    processes = [owner.identity, *stack.processes()]
    for identity in processes:
        os.kill(identity.pid, signal.SIGKILL)
    _await(lambda: not any(identity.alive for identity in processes))
    for name, content in (
        ("processes.json", b""),
        ("supervisor.json", b"\0" * 300),
        ("stack.json", b'{"api_url": "http://127.0'),
        ("credentials.json", b""),
        ("api.port", b"nonsense"),
        ("postgres/postmaster.pid", f"{os.getpid()}\n".encode()),  # a living stranger's
    ):
        (stack.data_dir / name).write_bytes(content)
    (log,) = stack.data_dir.glob("valkey/appendonlydir/*.incr.aof")
    log.write_bytes(log.read_bytes() + b"\0" * 64)

    for command in ("doctor", "submit", "down"):
        done = stack.run(command, *([str(stack.image)] if command == "submit" else []))
        assert "Traceback" not in done.stderr, done.stderr
    done = stack.run("up", "--detach", "--port", str(stack.port))

    assert done.returncode == 0, done.stderr
    for told in ("supervisor.json was", "api.port was", "credentials.json was", "Valkey could not read its data"):
        assert told in done.stderr
    assert {**stack.document(), "pids": None} == {**document, "pids": None}
    assert stack.run("submit", "--wait", str(stack.image)).returncode == 0


def test_up_on_another_port_is_refused_while_the_stack_runs(stack: Stack):
    done = stack.run("up", "--detach", "--port", "1")
    assert done.returncode == 1
    assert "already runs" in done.stderr


def test_data_survives_down_and_a_foreground_up_that_is_stopped_by_ctrl_c(stack: Stack):
    with stack.client() as client:
        job = client.submit(stack.image)
        client.wait([job.id], seconds=60)
    before, processes = stack.document(), stack.processes()

    stack.down()

    assert not any(identity.alive for identity in processes)
    assert not (stack.data_dir / "stack.json").exists()
    with _started(stack) as foreground:
        assert {**stack.document(), "pids": None} == {**before, "pids": None}
        with stack.client() as client:
            assert client.get(job.id).status == "succeeded"
            assert client.artifact(job.id, "overlay").startswith(b"\x89PNG")
        processes = stack.processes()
        foreground.send_signal(signal.SIGINT)
        _, told = foreground.communicate(timeout=90)
        assert foreground.returncode == 0, told
        assert "has stopped" in told
    assert not any(identity.alive for identity in processes)


def test_a_crash_is_told_and_kill_9_of_up_leaves_no_orphan(stack: Stack):
    with _started(stack) as foreground:
        assert foreground.stderr is not None
        os.kill(stack.document()["pids"]["beat"], signal.SIGKILL)
        _read_until(foreground, "beat was ended by SIGKILL")
        processes = stack.processes()

        foreground.kill()

        _await(lambda: not any(identity.alive for identity in processes))
    stack.up()  # nothing that was left is in the way


def test_down_never_ends_a_process_that_is_not_its_own(stack: Stack, tmp_path: Path):
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    identity = ProcessIdentity.of(stranger.pid)
    assert identity is not None
    document = {**stack.document(), "pids": dict.fromkeys(_NAMES, stranger.pid)}
    (tmp_path / "stack.json").write_text(json.dumps(document))
    recorded = {name: {"pid": stranger.pid, "started": "earlier"} for name in _NAMES}
    (tmp_path / "processes.json").write_text(json.dumps(recorded))

    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "down", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert identity.alive
    stranger.kill()
    stranger.wait()


def _started(stack: Stack) -> subprocess.Popen[str]:
    """A foreground `up` that has told that the stack is up."""
    foreground = stack.foreground()
    _read_until(foreground, "distildire is up")
    return foreground


def _read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    told = []
    for line in process.stderr:  # ends with the process
        told.append(line)
        if words in line:
            return
    raise AssertionError("".join(told))


def _await_doctor(stack: Stack, words: str) -> subprocess.CompletedProcess[str]:
    deadline = time.monotonic() + 60
    while words not in (done := stack.run("doctor")).stdout:
        assert time.monotonic() < deadline, done.stdout
    return done


def _await(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
