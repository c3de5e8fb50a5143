"""The wheel: built, installed into an empty environment, and run from another folder than the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_ports

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "deploy", "migrations", "shared", "worker")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", *PACKAGES)
#: What is no part of a package: what builds the images.
LEFT_OUT = "deploy/docker/"
_SECONDS = 240  # on two busy cores


@dataclass(frozen=True)
class Installation:
    """A virtual environment with the wheel, and a folder to work in that knows nothing of the checkout."""

    environment: Path
    folder: Path

    def run(self, program: str, *arguments: str) -> str:
        """Run one of its programs; return what it prints."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("DISTILDIRE_", "PYTHON"))
        }
        done = subprocess.run(
            [self.environment / "bin" / program, *arguments],
            cwd=self.folder,
            env=inherited | {"OMP_NUM_THREADS": "1"},
            check=False,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, with the setuptools of the lock: beside the checkout lies what earlier builds left there."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.joinpath("source").mkdir(exist_ok=True)
            shutil.copy(source, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", folder, folder / "source"], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel alone in a new environment; what it requires is read from where the tests have it.

    A second torch would be 5 GB. A folder that a .pth file names is searched after the environment's own, and the .pth
    files in it are not read: the finder of the editable install stays out.
    """
    folder = tmp_path_factory.mktemp("installation")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True)
    (site,) = environment.glob("lib/python3.*/site-packages")
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "elsewhere").mkdir()
    return Installation(environment, folder / "elsewhere")


@pytest.fixture(scope="module")
def sample(installation: Installation) -> str:
    """A photograph, in the folder to work in."""
    shutil.copy(ROOT / "deploy/samples/rocket.jpg", installation.folder)
    return "rocket.jpg"


@pytest.fixture
def stack(installation: Installation) -> Iterator[dict[str, Any]]:
    """The stack of the installed package; the fixture ends it by `down`."""
    installation.run("distildire", "up", "--detach", "--data-dir", "data", "--port", str(free_ports(1)[0]))
    try:
        document: dict[str, Any] = json.loads((installation.folder / "data/stack.json").read_text())
        yield document
    finally:
        installation.run("distildire", "down", "--data-dir", "data")


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    expected = {str(path) for path in files if "__pycache__" not in path.parts}
    assert packed == {name for name in expected if not name.startswith(LEFT_OUT)}


def test_the_wheel_says_that_its_packages_have_types_and_want_an_environment_of_their_own(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        typed = {name for name in archive.namelist() if name.endswith("/py.typed")}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert "environment of its own" in archive.read(metadata).decode()
    assert typed == {f"{name}/py.typed" for name in ("api", "deploy", "shared", "worker")}


def test_the_wheel_is_what_is_imported(installation: Installation) -> None:
    script = f"import {', '.join(PACKAGES)}, json; print(json.dumps([m.__path__ for m in ({', '.join(PACKAGES)})]))"
    found = [Path(folder) for path in json.loads(installation.run("python", "-c", script)) for folder in path]
    assert len(found) == len(PACKAGES)
    assert all(folder.is_relative_to(installation.environment) for folder in found)


def test_help_is_shown(installation: Installation) -> None:
    assert "analyze" in installation.run("distildire", "--help")


def test_an_image_is_analysed(installation: Installation, sample: str) -> None:
    (line,) = installation.run("distildire", "analyze", "--json", sample).splitlines()
    assert json.loads(line)["prediction"] == "REAL"


def test_the_stack_runs_from_the_wheel(installation: Installation, sample: str, stack: dict[str, Any]) -> None:
    assert all(stack["pids"].values()), stack["pids"]
    for name in ("api", "analysis_worker", "webhook_worker", "beat", "s3"):
        program = Path(f"/proc/{stack['pids'][name]}/cmdline").read_text().split("\0")[0]
        assert Path(program).is_relative_to(installation.environment), name
    (line,) = installation.run("distildire", "submit", "--wait", "--json", "--data-dir", "data", sample).splitlines()
    assert json.loads(line)["status"] == "succeeded"
