"""What an installed package holds: also the files that are no modules."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "deploy", "migrations", "shared", "worker")
LEFT_OUT = {".py", ".pyc", ".txt", ".sh", ".Dockerfile"}


def test_every_file_that_a_package_reads_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    distribution = importlib.import_module("setuptools").Distribution()  # it has no types
    configuration = importlib.import_module("setuptools.config.pyprojecttoml")
    configuration.apply_configuration(distribution, ROOT / "pyproject.toml")
    distribution.include_package_data = False  # else a manifest is written beside the sources
    build = distribution.get_command_obj("build_py")
    build.ensure_finalized()
    installed = {Path(folder) / name for _, folder, _, names in build.data_files for name in names}
    there = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    assert {path for path in there - installed if path.suffix not in LEFT_OUT} == set()
