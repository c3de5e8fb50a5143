"""What is deployed: the locks, the images and the compose file hold what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from shared.wall import API_ROLE, WORKER_ROLE

ROOT = Path(__file__).parents[2]
LOCKS = {
    "dev": ROOT / "requirements.txt",
    "api": ROOT / "deploy/docker/api.txt",
    "worker": ROOT / "deploy/docker/worker.txt",
}
ONE_SHOT = {"store-volume", "bucket", "migrate"}
SECRET_VARIABLES = {
    *("POSTGRES_PASSWORD", "API_PASSWORD", "WORKER_PASSWORD", "REDIS_PASSWORD"),
    *("S3_ACCESS_KEY", "S3_SECRET_KEY", "DISTILDIRE_SECRET_KEY"),
}


def pins(lock: Path) -> dict[str, set[str]]:
    """The versions that a lock allows, by package (more than one where Python versions differ)."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", lock.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def requirements(extra: str) -> list[Requirement]:
    """The project's direct requirements with `extra`, those of the extras that it names included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pending, direct = [Requirement(f"distildire[{extra}]")], []
    direct += [Requirement(line) for line in project["dependencies"]]
    while pending:
        for name in pending.pop().extras:
            for line in project["optional-dependencies"][name]:
                requirement = Requirement(line)
                (pending if requirement.name == "distildire" else direct).append(requirement)
    return direct


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.fixture
def service_variables() -> dict[str, str]:
    """Settings that are complete; nobody answers at these addresses."""
    return {
        "DISTILDIRE_DATABASE_URL": "postgresql://user:password@127.0.0.1:1/name",
        "DISTILDIRE_REDIS_URL": "redis://:password@127.0.0.1:1/0",
        "DISTILDIRE_S3_ENDPOINT": "http://127.0.0.1:1",
        "DISTILDIRE_S3_ACCESS_KEY": "access",
        "DISTILDIRE_S3_SECRET_KEY": "secret",
        "DISTILDIRE_SECRET_KEY": "0" * 32,
    }


@pytest.mark.parametrize("extra", LOCKS)
def test_lock_holds_every_requirement_of_the_project(extra: str) -> None:
    locked = pins(LOCKS[extra])
    stale = [
        str(requirement)
        for requirement in requirements(extra)
        if not any(requirement.specifier.contains(v) for v in locked.get(requirement.name.lower(), ()))
    ]
    assert not stale, "run `make lock`"


@pytest.mark.parametrize("extra", LOCKS)
def test_lock_has_hashes_for_everything_and_names_no_index(extra: str) -> None:
    text = LOCKS[extra].read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"://|^-", text, re.MULTILINE)


@pytest.mark.parametrize("image", ["api", "worker"])
def test_images_run_the_versions_that_the_tests_ran(image: str) -> None:
    tested = pins(LOCKS["dev"])
    assert {name: versions for name, versions in pins(LOCKS[image]).items() if versions - tested.get(name, set())} == {}


def test_web_image_has_no_torch() -> None:
    assert not {name for name in pins(LOCKS["api"]) if name.startswith(("torch", "nvidia", "triton", "cuda"))}


@pytest.mark.parametrize("extra", LOCKS)
def test_every_requirement_is_accounted_for(extra: str) -> None:
    told = re.findall(r"^\| `([a-z0-9-]+)` \| [a-z]+ \| ", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    assert not {requirement.name for requirement in requirements(extra)} - set(told)


@pytest.mark.parametrize(
    ("image", "modules"),
    [
        (
            "api",
            "api.wsgi, gunicorn.app.wsgiapp, worker.tasks, worker.webhooks, migrations.upgrade, deploy.commands.keys",
        ),
        ("worker", "worker.tasks, worker.runtime, worker.model.detector"),
    ],
    ids=["api", "worker"],
)
def test_image_has_every_package_that_its_programs_import(
    image: str, modules: str, service_variables: dict[str, str]
) -> None:
    locked = pins(LOCKS[image]).keys() | {"distildire"}
    installed = packages_distributions().items()
    missing = [name for name, homes in installed if not {canonicalize_name(home) for home in homes} & locked]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r})); import {modules};"
        "worker.tasks.app.connection_for_write().transport"  # Celery imports it by name, when it connects
    )
    environment = {**os.environ, **service_variables}
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_container_is_contained(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name


def test_containers_that_make_a_folder_at_home_have_their_home_on_tmpfs(services: dict[str, dict[str, Any]]) -> None:
    for service in (services[name] for name in ("minio", "bucket")):
        folders = [entry.partition(":")[0] for entry in service["tmpfs"]]  # after the colon are its options
        assert service["environment"]["HOME"] in folders
    for dockerfile in (ROOT / "deploy/docker").glob("*.Dockerfile"):
        assert re.search(r"\bHOME=/tmp\b", dockerfile.read_text()), dockerfile


def test_no_password_is_on_a_command_line(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        text = yaml.safe_dump([service.get("command"), service.get("entrypoint")])
        assert not re.search(r"--requirepass|PASSWORD|SECRET_KEY|ACCESS_KEY", text), name


def test_only_the_migrations_and_the_server_know_the_owners_password(services: dict[str, dict[str, Any]]) -> None:
    knowing = {name for name, service in services.items() if "{POSTGRES_PASSWORD" in str(service.get("environment"))}
    assert knowing == {"postgres", "migrate"}
    urls = {
        name: str(service.get("environment", {}).get("DISTILDIRE_DATABASE_URL")) for name, service in services.items()
    }
    assert [name for name, url in urls.items() if f"//{API_ROLE}:" in url] == ["api"]
    assert {name for name, url in urls.items() if f"//{WORKER_ROLE}:" in url} == {
        *("worker-cpu", "worker-gpu", "webhook-worker", "beat"),
    }


def test_only_the_job_that_hands_over_a_volume_is_root(services: dict[str, dict[str, Any]]) -> None:
    ours = {name for name, service in services.items() if "build" in service}
    for name in services.keys() - ours - {"store-volume"}:
        assert services[name]["user"].split(":")[0] not in {"0", "root"}, name
    for service in (services[name] for name in ours):
        assert re.search(r"^USER 10001$", (ROOT / service["build"]["dockerfile"]).read_text(), re.MULTILINE)


def test_images_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert re.search(r":(RELEASE\.)?\d+[.-]\d+", service["image"]), name
    for dockerfile in (ROOT / "deploy/docker").glob("*.Dockerfile"):
        assert re.search(r"^ARG PYTHON=3\.\d+\.\d+-slim", dockerfile.read_text(), re.MULTILINE), dockerfile


def test_ports_are_bound_to_loopback(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_hostile_images_are_decoded_without_a_way_to_the_internet(services: dict[str, dict[str, Any]]) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert compose["networks"]["inside"]["internal"]
    for name in ("worker-cpu", "worker-gpu", "postgres", "redis", "beat"):
        assert services[name]["networks"] == ["inside"], name


def test_services_restart_and_jobs_run_once(services: dict[str, dict[str, Any]]) -> None:
    restarted = {name for name, service in services.items() if service["restart"] == "unless-stopped"}
    assert restarted == services.keys() - ONE_SHOT


def test_compose_file_holds_no_secret() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    given = set(re.findall(r"\$\{([A-Z0-9_]+):\?", text))
    assert given == SECRET_VARIABLES
    assert not re.search(r"(PASSWORD|SECRET_KEY|ACCESS_KEY): [^$*\s]", text)


def test_env_file_is_made_once_private_and_complete(tmp_path: Path) -> None:
    script = tmp_path / "deploy/docker/make-env.sh"
    script.parent.mkdir(parents=True)
    script.write_bytes((ROOT / "deploy/docker/make-env.sh").read_bytes())
    subprocess.run(["sh", script, "gpu"], check=True, capture_output=True)
    env = tmp_path / ".env"
    values = dict(line.split("=", 1) for line in env.read_text().splitlines())
    assert values.pop("COMPOSE_PROFILES") == "gpu"
    assert values.keys() == SECRET_VARIABLES
    assert all(re.fullmatch(r"[0-9a-f]{20,64}", value) for value in values.values())
    assert len(set(values.values())) == len(values)
    assert env.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "models").stat().st_mode & 0o005 == 0o005  # the container's user reads it
    again = subprocess.run(["sh", script, "cpu"], check=False, capture_output=True)
    assert again.returncode == 1
    assert "gpu" in env.read_text()


def test_env_file_of_an_older_release_is_completed_and_keeps_what_it_has(tmp_path: Path) -> None:
    script = tmp_path / "deploy/docker/make-env.sh"
    script.parent.mkdir(parents=True)
    script.write_bytes((ROOT / "deploy/docker/make-env.sh").read_bytes())
    older = "COMPOSE_PROFILES=cpu\nPOSTGRES_PASSWORD=kept\nDISTILDIRE_SECRET_KEY=kept"  # with no end of line
    (tmp_path / ".env").write_text(older)
    subprocess.run(["sh", script], check=True, capture_output=True)
    completed = (tmp_path / ".env").read_text()
    assert completed.startswith(older + "\n")
    added = dict(line.split("=", 1) for line in completed.removeprefix(older).split())
    assert added.keys() == {"API_PASSWORD", "WORKER_PASSWORD"}
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in added.values())
    assert subprocess.run(["sh", script], check=False, capture_output=True).returncode == 1
    assert (tmp_path / ".env").read_text() == completed


def test_scripts_can_be_executed() -> None:
    assert all(os.access(ROOT / script, os.X_OK) for script in (".ci/run", ".ci/audit", "deploy/docker/make-env.sh"))
