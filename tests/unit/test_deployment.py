"""What is deployed: the images and the compose file hold what they promise."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

from deploy.store_access import bucket_policy
from shared.database.row_level_security import API_ROLE, WORKER_ROLE
from tests.support.locks import LOCKS, ROOT, read_lock

SCRIPTS = (".ci/run", ".ci/audit", ".ci/test-lowest", ".ci/test-pythons", "deploy/docker/make-env.sh")
ONE_SHOT = {"store-volume", "bucket", "migrate"}
SECRET_VARIABLES = {
    *("POSTGRES_PASSWORD", "API_PASSWORD", "WORKER_PASSWORD", "REDIS_PASSWORD"),
    *("S3_ROOT_USER", "S3_ROOT_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "DISTILDIRE_SECRET_KEY"),
}
#: Which of these each service is given.
SECRETS = {
    "postgres": {"POSTGRES_PASSWORD"},
    "redis": {"REDIS_PASSWORD"},
    "store-volume": set(),
    "minio": {"S3_ROOT_USER", "S3_ROOT_PASSWORD"},
    "bucket": {"S3_ROOT_USER", "S3_ROOT_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"},
    "migrate": SECRET_VARIABLES - {"S3_ROOT_USER", "S3_ROOT_PASSWORD"},
    "api": {"API_PASSWORD", "REDIS_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "DISTILDIRE_SECRET_KEY"},
    "webhook-worker": {"WORKER_PASSWORD", "REDIS_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "DISTILDIRE_SECRET_KEY"},
    "worker-cpu": {"WORKER_PASSWORD", "REDIS_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"},
    "worker-gpu": {"WORKER_PASSWORD", "REDIS_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"},
    "beat": {"WORKER_PASSWORD", "REDIS_PASSWORD"},
}
#: The Dockerfiles of the service itself.
OUR_DOCKERFILES = [ROOT / f"deploy/docker/{image}.Dockerfile" for image in ("api", "worker")]


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.fixture(scope="module")
def with_seaweedfs(services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What deploy/docker/seaweedfs.yml adds or changes."""
    changes: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "deploy/docker/seaweedfs.yml").read_text())["services"]
    assert changes.keys() - services.keys() == {"seaweedfs"}
    return changes


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


@pytest.mark.parametrize(
    ("image", "modules"),
    [
        (
            "api",
            (
                "api.wsgi, gunicorn.app.wsgiapp, worker.tasks, worker.webhooks.service, migrations.upgrade, "
                "deploy.commands.operator.keys, deploy.commands.operator.store"
            ),
        ),
        ("worker", "worker.tasks, worker.jobs.service, worker.model.detector"),
    ],
    ids=["api", "worker"],
)
def test_image_has_every_package_that_its_programs_import(
    image: str, modules: str, service_variables: dict[str, str]
) -> None:
    locked = {pin.name for pin in read_lock(LOCKS[image].read_text())} | {"distildire"}
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


def test_every_container_is_contained(
    services: dict[str, dict[str, Any]], with_seaweedfs: dict[str, dict[str, Any]]
) -> None:
    for name, service in [*services.items(), ("seaweedfs", with_seaweedfs["seaweedfs"])]:
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name


def test_containers_that_make_a_folder_at_home_have_their_home_on_tmpfs(services: dict[str, dict[str, Any]]) -> None:
    for service in (service for service in services.values() if "build" in service):
        assert "/tmp" in [entry.partition(":")[0] for entry in service["tmpfs"]]  # after the colon are its options
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


def test_each_service_gets_its_own_secrets_and_no_others(services: dict[str, dict[str, Any]]) -> None:
    given = {
        name: set(re.findall(r"\$\{([A-Z0-9_]+):\?", str(service.get("environment"))))
        for name, service in services.items()
    }
    assert given == SECRETS


def test_another_store_gets_no_secret_but_its_own(with_seaweedfs: dict[str, dict[str, Any]]) -> None:
    given = re.findall(r"\$\{([A-Z0-9_]+):\?", str(with_seaweedfs["seaweedfs"]["environment"]))
    assert {*given} == {"S3_ROOT_USER", "S3_ROOT_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"}
    assert "environment" not in with_seaweedfs["bucket"]


def test_either_store_is_found_by_the_same_name_on_loopback_alone(
    services: dict[str, dict[str, Any]], with_seaweedfs: dict[str, dict[str, Any]]
) -> None:
    for store in (services["minio"], with_seaweedfs["seaweedfs"]):
        assert store["networks"]["inside"] == {"aliases": ["store"]}
        assert store["ports"] == ["127.0.0.1:${S3_PORT:-9000}:9000"]
    assert services["api"]["environment"]["DISTILDIRE_S3_ENDPOINT"] == "http://store:9000"
    assert with_seaweedfs["minio"] == {"profiles": ["minio"]}
    assert services["bucket"]["depends_on"]["minio"]["required"] is False
    assert {*with_seaweedfs["bucket"]["depends_on"]} == {"seaweedfs"}


def test_the_services_keys_open_its_bucket_alone_in_either_store(
    services: dict[str, dict[str, Any]], with_seaweedfs: dict[str, dict[str, Any]]
) -> None:
    assert services["bucket"]["command"] == ["sh", "-ec", "distildire store bucket && distildire store user"]
    script = with_seaweedfs["seaweedfs"]["entrypoint"][2]
    identities = json.loads(re.findall(r"<<END\n(.*?)\nEND\n", script, re.DOTALL)[0])["identities"]
    rights = {identity["credentials"][0]["accessKey"]: identity["actions"] for identity in identities}
    assert rights == {
        "$$ROOT_USER": ["Admin"],
        "$$ACCESS_KEY": ["Read:distildire", "List:distildire", "Write:distildire"],
    }


def test_the_documented_policy_is_the_one_that_is_made() -> None:
    (documented,) = re.findall(
        r"^```json\n(.*?)^```$", (ROOT / "docs/operations.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert json.loads(documented) == bucket_policy("distildire")


def test_minio_is_built_from_a_source_and_on_images_that_are_pinned_by_digest() -> None:
    text = (ROOT / "deploy/docker/minio.Dockerfile").read_text()
    assert len(re.findall(r"^FROM ", text, re.MULTILINE)) == 2
    assert len(re.findall(r"^FROM \S+@sha256:[0-9a-f]{64}", text, re.MULTILINE)) == 2
    (version,) = re.findall(r"^ARG VERSION=(v0\.0\.0-20251015172955-[0-9a-f]{12})$", text, re.MULTILINE)
    (digest,) = re.findall(r"^ARG DIGEST=(h1:[A-Za-z0-9+/]{43}=)$", text, re.MULTILINE)
    assert version
    assert digest
    assert 'grep -F "$DIGEST"' in text
    assert "GOSUMDB=sum.golang.org" in text
    assert not re.search(r"GONOSUMDB|GONOSUMCHECK|GOFLAGS|GOPRIVATE", text)


def test_no_process_looks_for_modules_where_it_is_started(services: dict[str, dict[str, Any]]) -> None:
    for name in ("webhook-worker", "beat"):
        assert services[name]["command"][:3] == ["python", "-P", "-m"], name
    for dockerfile in OUR_DOCKERFILES:
        assert re.search(r'^CMD \["python", "-P", "-m", ', dockerfile.read_text(), re.MULTILINE), dockerfile


def test_only_the_job_that_hands_over_a_volume_is_root(services: dict[str, dict[str, Any]]) -> None:
    ours = {name for name, service in services.items() if "build" in service}
    for name in services.keys() - ours - {"store-volume"}:
        assert services[name]["user"].split(":")[0] not in {"0", "root"}, name
    for service in (services[name] for name in ours):
        assert re.search(r"^USER (10001|1000:1000)$", (ROOT / service["build"]["dockerfile"]).read_text(), re.MULTILINE)


def test_images_are_pinned(services: dict[str, dict[str, Any]], with_seaweedfs: dict[str, dict[str, Any]]) -> None:
    for name, service in [*services.items(), ("seaweedfs", with_seaweedfs["seaweedfs"])]:
        assert re.search(r":(RELEASE\.)?\d+[.-]\d+", service["image"]), name
    for dockerfile in OUR_DOCKERFILES:
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
    assert added.keys() == {"API_PASSWORD", "WORKER_PASSWORD", "S3_ROOT_USER", "S3_ROOT_PASSWORD"}
    assert re.fullmatch(r"[0-9a-f]{20}", added.pop("S3_ROOT_USER"))
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in added.values())
    assert subprocess.run(["sh", script], check=False, capture_output=True).returncode == 1
    assert (tmp_path / ".env").read_text() == completed


def test_scripts_can_be_executed() -> None:
    assert all(os.access(ROOT / script, os.X_OK) for script in SCRIPTS)
