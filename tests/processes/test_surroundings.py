"""What stands around the stack does not reach it: the working directory, and the environment of other programs."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from redis import Redis

from deploy.local.services import ServiceUrls
from shared.environment import PREFIX
from shared.settings import Settings
from tests.processes.worker_processes import wait_until
from tests.support.ports import free_ports
from tests.support.tiny_model import NAME, write_model
from worker.sandbox.sandbox import Sandbox

_PROCESSES = ("api", "analysis_worker", "webhook_worker", "beat")
#: Modules that our processes and the libraries import by name.
_MODULES = (
    "api",
    "worker",
    "shared",
    "deploy",
    "migrations",
    "celeryconfig",
    "celery",
    "gunicorn",
    "numpy",
    "PIL",
)
#: What another program may have set. Each of these once kept a process from starting, or led it elsewhere.
_FOREIGN = {
    "CELERY_BROKER_READ_URL": "redis://127.0.0.1:1/0",
    "CELERY_RESULT_BACKEND": "nonsense://",
    "CELERY_CONFIG_MODULE": "trap",
    "CELERY_LOADER": "trap",
    "CELERY_CUSTOM_WORKER_POOL": "trap:Pool",
    "BROKER_URL": "redis://127.0.0.1:1/0",
    "DJANGO_SETTINGS_MODULE": "trap",
    "PICKLE_PROTOCOL": "latest",
    "PGSSLMODE": "require",
    "PGHOSTADDR": "127.0.0.9",
    "PGOPTIONS": "-c search_path=nowhere",
    "PGSERVICE": "elsewhere",
    "GUNICORN_CMD_ARGS": "--bind 127.0.0.1:1 --workers 90",
    "WEB_CONCURRENCY": "auto",
    "SCRIPT_NAME": "/app",
    "PORT": "1",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
    "ALL_PROXY": "socks5://127.0.0.1:1",
    "SSL_CERT_FILE": "/nonexistent.pem",
    "NANIO_DATA_DIR": "/nonexistent",
    "UVICORN_WORKERS": "many",
    "AWS_ACCESS_KEY_ID": "of-another",
}


@dataclass
class Surrounded:
    """A stack that was started in a folder of traps, with another program's environment."""

    folder: Path
    data_dir: Path
    environment: dict[str, str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `distildire` where the traps are."""
        command = [sys.executable, "-P", "-m", "deploy.cli", *arguments, "--data-dir", str(self.data_dir)]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=240, check=False
        )

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.data_dir / "stack.json").read_text())
        return document

    def variables(self, name: str) -> dict[str, str]:
        """The environment that a process was started with."""
        entries = Path(f"/proc/{self.document()['pids'][name]}/environ").read_text().split("\0")
        return dict(entry.split("=", 1) for entry in entries if entry)


def lay_traps(folder: Path) -> Path:
    """Make modules that say in a file that they were imported, and take the place of ours; return that file."""
    sprung = folder / "sprung"
    for name in _MODULES:
        trap = f"open({str(sprung)!r}, 'a').write('{name}\\n')\n"
        (folder / f"{name}.py").write_text(trap)
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(trap)
    return sprung


@pytest.fixture(scope="module")
def foreign_redis(services: ServiceUrls) -> Iterator[Redis]:
    """Another program's Redis, with a task of its own in a queue that has the name of one of ours."""
    with Redis.from_url(services.redis_url.replace("/0", "/7")) as client:
        for queue in ("analysis", "webhooks", "sweep"):
            client.lpush(queue, json.dumps({"task": "send_invoice"}))
        yield client


@pytest.fixture(scope="module")
def surrounded(
    tmp_path_factory: pytest.TempPathFactory, services: ServiceUrls, foreign_redis: Redis
) -> Iterator[Surrounded]:
    folder = tmp_path_factory.mktemp("surroundings")
    lay_traps(folder)
    (folder / "models").mkdir()
    write_model(folder / "models")
    Image.radial_gradient("L").convert("RGB").save(folder / "image.png")
    own = {"DISTILDIRE_MODELS_DIR": "models", "DISTILDIRE_MODEL": NAME, "OMP_NUM_THREADS": "1"}
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    broker = {"CELERY_BROKER_URL": services.redis_url.replace("/0", "/7")}
    stack = Surrounded(folder, folder / "data", kept | own | broker | _FOREIGN)
    up = stack.run("up", "--detach")
    assert up.returncode == 0, up.stderr
    yield stack
    stack.run("down")


def test_no_process_imports_from_the_folder_that_the_stack_is_started_in(surrounded: Surrounded):
    submitted = surrounded.run("submit", "--wait", "--json", "image.png")  # decoders are started, too

    assert submitted.returncode == 0, submitted.stderr
    assert not (surrounded.folder / "sprung").exists(), (surrounded.folder / "sprung").read_text()


def test_decoders_do_not_import_from_the_folder_that_a_worker_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sprung = lay_traps(tmp_path)
    image = io.BytesIO()
    Image.radial_gradient("L").save(image, "PNG")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # as it is where Python runs a command or reads from its input
    with Sandbox() as sandbox, sandbox.open(image.getvalue(), 64) as opened:
        assert opened.x.shape == (3, 64, 64)
    assert not sprung.exists(), sprung.read_text()


def test_another_programs_queues_are_left_alone(surrounded: Surrounded, foreign_redis: Redis):
    assert [foreign_redis.llen(queue) for queue in ("analysis", "webhooks", "sweep")] == [1, 1, 1]


def test_only_settings_and_named_variables_reach_the_processes(surrounded: Surrounded):
    ours = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in surrounded.document()["pids"]:
        variables = surrounded.variables(name)
        foreign = _FOREIGN.keys() - {"SSL_CERT_FILE"}  # its process ignores it, with a word
        assert not foreign & variables.keys(), name
        settings = {variable for variable in variables if variable.startswith(PREFIX)}
        assert settings <= ours, name
        assert bool(settings) == (name in _PROCESSES), name


def test_each_process_has_only_the_secrets_that_it_needs(surrounded: Surrounded):
    secrets = {"DISTILDIRE_SECRET_KEY", "DISTILDIRE_S3_SECRET_KEY", "DISTILDIRE_S3_ACCESS_KEY"}
    found = {name: secrets & surrounded.variables(name).keys() for name in _PROCESSES}
    assert found == {
        "api": secrets,
        "webhook_worker": secrets,
        "analysis_worker": secrets - {"DISTILDIRE_SECRET_KEY"},
        "beat": set(),
    }


@pytest.mark.parametrize("role", ["api", "webhooks", "beat"])
def test_a_process_that_is_started_by_hand_is_not_led_elsewhere_either(
    surrounded: Surrounded, foreign_redis: Redis, tmp_path: Path, role: str
):
    ready, log, (port,) = tmp_path / "ready", tmp_path / "log", free_ports(1)
    arguments = ["api"] if role == "api" else ["worker", role]
    own = {"DISTILDIRE_READY_FILE": str(ready), "DISTILDIRE_BIND": f"127.0.0.1:{port}"}
    settings = surrounded.variables("webhook_worker") | own
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *arguments],
            cwd=surrounded.folder,
            env=surrounded.environment | settings,
            stdout=output,
            stderr=output,
        )
    try:
        answers = (lambda: _answers(port)) if role == "api" else ready.exists
        wait_until(lambda: answers() or process.poll() is not None, 60, log.read_text)
        assert process.poll() is None, log.read_text()
        assert "environment_ignored" in log.read_text()
        assert "CELERY_BROKER_URL" in log.read_text()
    finally:
        process.terminate()
        assert process.wait(40) == 0, log.read_text()
    assert not (surrounded.folder / "sprung").exists(), (surrounded.folder / "sprung").read_text()
    assert [foreign_redis.llen(queue) for queue in ("webhooks", "sweep")] == [1, 1]


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("arguments", [("analysis", "more"), (), ("api",)])
def test_a_role_that_there_is_not_is_wrong_usage(arguments: tuple[str, ...]):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "worker", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "usage" in done.stderr


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        ("api", {"SECRET_KEY", "S3_SECRET_KEY", "DATABASE_URL"}),
        ("worker webhooks", {"SECRET_KEY", "S3_SECRET_KEY", "DATABASE_URL"}),
        ("worker analysis", {"S3_SECRET_KEY", "DATABASE_URL"}),
        ("worker beat", {"DATABASE_URL"}),
    ],
)
def test_a_process_names_all_settings_that_it_lacks_and_no_others(module: str, missing: set[str]):
    done = subprocess.run(
        [sys.executable, "-P", "-m", *module.split()],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    told = {name for name in ("SECRET_KEY", "S3_SECRET_KEY", "DATABASE_URL") if f"DISTILDIRE_{name}:" in done.stderr}
    assert told == missing
    assert "Traceback" not in done.stderr


def test_the_command_reaches_the_stack_as_well(surrounded: Surrounded):
    for arguments in (("doctor",), ("keys", "list"), ("top", "--once"), ("jobs", "list")):
        done = surrounded.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
