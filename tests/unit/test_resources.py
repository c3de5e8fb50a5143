"""How many threads compute, and how they wait."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from worker.process.resources import usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("250000 100000", 3), ("50000 100000", 1), ("6400000 100000", 8)],
)
def test_a_containers_quota_bounds_the_threads(tmp_path: Path, limit: str, cores: int):
    (tmp_path / "cpu.max").write_text(limit + "\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("300000", 3)])
def test_an_old_kernels_quota_too(tmp_path: Path, quota: str, cores: int):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("own", "limited", "limit", "cores"),
    [
        ("0::/system.slice/worker.service\n", "system.slice/worker.service/cpu.max", "150000 100000", 2),
        ("0::/system.slice/worker.service\n", "system.slice/cpu.max", "50000 100000", 1),
        ("1:name=systemd:/x\n0::/a\n", "unified/a/cpu.max", "300000 100000", 3),
        ("4:memory:/m\n3:cpu,cpuacct:/docker/x\n", "cpu,cpuacct/docker/x/cpu.cfs_quota_us", "200000", 2),
        ("3:cpu,cpuacct:/docker/x\n", "cpu/docker/cpu.cfs_quota_us", "400000", 4),
        ("4:memory:/m\n", "memory/m/cpu.max", "100000 100000", 8),
        ("0::/../../elsewhere\n", "elsewhere/cpu.max", "100000 100000", 8),
        ("nonsense", "cpu.max", "max 100000", 8),
    ],
)
def test_the_quota_counts_of_whatever_group_holds_this_process(
    tmp_path: Path, own: str, limited: str, limit: str, cores: int
):
    (tmp_path / "own").write_text(own)
    file = tmp_path / "groups" / limited
    file.parent.mkdir(parents=True)
    file.write_text(limit + "\n")
    if file.name == "cpu.cfs_quota_us":
        file.with_name("cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path / "groups", tmp_path / "own") == cores


def test_the_least_of_several_quotas_counts(tmp_path: Path):
    (tmp_path / "own").write_text("0::/a/b\n")
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/cpu.max").write_text("200000 100000\n")
    (tmp_path / "a/b/cpu.max").write_text("500000 100000\n")
    assert usable_cores(tmp_path, tmp_path / "own") == 2


def test_decoders_take_turns_by_the_quota():
    code = """
        import worker.process.resources
        worker.process.resources.usable_cores = lambda *_: 3
        from worker.sandbox import client
        print(client._TURNS)
    """
    told = subprocess.check_output([sys.executable, "-c", textwrap.dedent(code)], text=True)
    assert told.split() == ["6"]


def test_without_control_groups_the_affinity_counts(tmp_path: Path):
    assert usable_cores(tmp_path) == 8


@pytest.mark.parametrize("module", ["worker.model", "worker.training", "worker.jobs.service"])
def test_it_is_settled_before_torch_can_be_imported(module: str):
    code = f"import sys, os, {module}; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    told = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert told.split() == ["False", "PASSIVE"]


def test_what_the_operator_sets_stands():
    code = "import os, worker; print(os.environ['OMP_WAIT_POLICY'], os.environ['OMP_NUM_THREADS'])"
    environment = os.environ | {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "3"}
    told = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert told.split() == ["ACTIVE", "3"]
