"""The installing commands of Makefile and Dockerfiles, taken from there, while newer releases come out.

pip with a resolver looks beyond a lock: `apiflask` requires `pydantic[email]>=2.0`, and for pip that is another thing
than the locked `pydantic`, of which it takes the newest release, which has no hash in the lock.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.dockerfiles import run_stage
from tests.support.package_index import PackageIndex, Release, served

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
#: Both pairs of the lock in which one requires another with an extra, as they were when it was written …
LOCKED = (
    Release("apiflask", "3.1.2", ("pydantic[email]>=2.0",)),
    Release("pydantic", "2.14.3", ('email-validator; extra == "email"',), ("email",)),
    Release("email-validator", "2.4.0"),
    Release("nanio", "0.1.7", ("uvicorn[standard]>=0.30",)),
    Release("uvicorn", "0.54.0", ('httptools; extra == "standard"',), ("standard",)),
    Release("httptools", "0.9.0"),
)
#: … and what comes out next.
NEWER = (
    Release("pydantic", "2.14.4", ('email-validator; extra == "email"',), ("email",)),
    Release("uvicorn", "0.55.0", ('httptools; extra == "standard"',), ("standard",)),
)
PROJECT = """
[build-system]
requires = ["setuptools>=80"]
build-backend = "setuptools.build_meta"
[project]
name = "project"
version = "1.0"
dependencies = ["apiflask", "nanio"]
[tool.setuptools]
py-modules = ["project"]
"""

#: Installs into the folder, with the installing file's text; returns the end and the Python that was installed into.
Install = Callable[[str, Path, dict[str, str]], tuple[subprocess.CompletedProcess[str], Path]]


def with_make(text: str, folder: Path, environment: dict[str, str]) -> tuple[subprocess.CompletedProcess[str], Path]:
    """What a newcomer does."""
    (folder / "Makefile").write_text(text)
    command = ["make", "setup", "PYTHON=python"]
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    return done, folder / ".venv/bin/python"


def with_docker(text: str, folder: Path, environment: dict[str, str]) -> tuple[subprocess.CompletedProcess[str], Path]:
    """What `docker build` does."""
    context, root = folder / "context", folder / "root"
    if not context.exists():
        context.mkdir()
        for name in ("pyproject.toml", "project.py", "deploy"):
            (context / name).symlink_to(folder / name)
    return run_stage(text, "build", context, root, environment), root / "opt/distildire/bin/python"


PLACES: dict[str, tuple[Path, Install]] = {
    "make": (ROOT / "Makefile", with_make),
    "api": (ROOT / "deploy/docker/api.Dockerfile", with_docker),
    "worker": (ROOT / "deploy/docker/worker.Dockerfile", with_docker),
}


@pytest.fixture
def index(tmp_path: Path) -> PackageIndex:
    """An index as it was when the lock was written."""
    found = PackageIndex(tmp_path / "index")
    found.publish(*LOCKED)
    found.publish_installed("setuptools")
    return found


@pytest.fixture
def environment(tmp_path: Path, index: PackageIndex) -> Iterator[dict[str, str]]:
    """What pip may know: this index, and nothing of this machine's settings."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}"))
    with served(tmp_path / "index") as url:
        yield {
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(tmp_path / "home"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": url,
        }


@pytest.fixture
def folder(tmp_path: Path, index: PackageIndex) -> Path:
    """A project with its locks, as they were written then."""
    lock = index.lock(*(f"{r.name}=={r.version}" for r in LOCKED), f"setuptools=={version('setuptools')}")
    (tmp_path / "deploy/docker").mkdir(parents=True)
    for name in ("requirements.txt", "deploy/docker/api.txt", "deploy/docker/worker.txt"):
        (tmp_path / name).write_text(lock)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "project.py").touch()
    return tmp_path


def installed(python: Path) -> dict[str, str]:
    """The versions that are installed for a Python."""
    command = [str(python), "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {entry["name"]: entry["version"] for entry in listed}


def with_a_resolver(text: str) -> str:
    """The same commands as they would be without `--no-deps` where the lock is installed."""
    changed = re.sub(r"--no-deps (.*--require-hashes)", r"\1", text)
    assert changed != text
    return changed


@pytest.mark.parametrize(
    "place", ["make", *(pytest.param(image, marks=pytest.mark.slow) for image in ("api", "worker"))]
)
def test_the_lock_installs_after_newer_releases_came_out(
    place: str, folder: Path, index: PackageIndex, environment: dict[str, str]
) -> None:
    file, install = PLACES[place]
    for newer in NEWER:
        index.publish(newer)
        refused, _ = install(with_a_resolver(file.read_text()), folder, environment)
        assert refused.returncode != 0
        assert re.search(rf"hash.*{newer.name}", refused.stderr.lower(), re.DOTALL)
        index.withdraw(newer)
    index.publish(*NEWER)
    done, python = install(file.read_text(), folder, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "No broken requirements found."
    assert {release.name: release.version for release in LOCKED}.items() <= installed(python).items()


def test_it_is_the_newer_release_that_a_resolver_fails_on(folder: Path, environment: dict[str, str]) -> None:
    file, install = PLACES["make"]
    done, _ = install(with_a_resolver(file.read_text()), folder, environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def path_of_pythons(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Makes an environment whose path has programs of these names alone: they do nothing, well or not."""

    def make_them(usable: str, unusable: str = "") -> dict[str, str]:
        programs = tmp_path / "pythons"
        programs.mkdir()
        for name, ended in [*((name, 0) for name in usable.split()), *((name, 127) for name in unusable.split())]:
            (programs / name).write_text(f"#!/bin/sh\nexit {ended}\n")
            (programs / name).chmod(0o755)
        return {"PATH": str(programs)}

    return make_them


def make(*arguments: str, environment: dict[str, str], folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make with our Makefile."""
    command = [shutil.which("make") or "make", "--makefile", str(ROOT / "Makefile"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("usable", "unusable", "chosen"),
    [
        ("python3 python3.14 python3.13 python3.12 python3.11", "", "python3.11"),
        ("python3 python3.14 python3.13 python3.12", "python3.11", "python3.12"),
        ("python3 python3.14 python3.13", "", "python3.13"),
        ("python3 python3.14", "", "python3.14"),
        ("python3", "python3.14", "python3"),
    ],
)
def test_make_prefers_the_python_that_most_tests_ran_on(
    path_of_pythons: Callable[..., dict[str, str]], usable: str, unusable: str, chosen: str
) -> None:
    done = make("--dry-run", "--always-make", "setup", environment=path_of_pythons(usable, unusable))
    assert f"{chosen} -m venv" in done.stdout


def test_make_says_which_python_it_needs(path_of_pythons: Callable[..., dict[str, str]]) -> None:
    done = make("--always-make", "setup", "VENV=/nowhere", environment=path_of_pythons("", "python3 python3.11"))
    assert done.returncode != 0
    assert "Python 3.11 to 3.14 with venv is needed" in done.stderr


@pytest.mark.parametrize(("version", "usable"), [("3, 10", False), ("3, 11", True), ("3, 14", True), ("3, 15", False)])
def test_make_takes_no_python_that_is_too_old_or_too_new(version: str, *, usable: bool) -> None:
    asked = re.search(r"\$\$p -c '(.*?)'", (ROOT / "Makefile").read_text())
    assert asked is not None
    script = f"import sys; sys.version_info = ({version}); {asked[1]}"
    assert (subprocess.run([sys.executable, "-c", script], check=False).returncode == 0) == usable


def test_make_begins_anew_where_an_environment_was_left_half_made(folder: Path, environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    done, python = with_make((ROOT / "Makefile").read_text(), folder, environment)
    assert done.returncode == 0, done.stderr
    assert {release.name: release.version for release in LOCKED}.items() <= installed(python).items()
