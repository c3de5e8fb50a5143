"""The egress guard where every address there is would answer: nothing is left alone for want of a listener."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support import every_address
from tests.support.rebinding import INSIDE, NAMES, PUBLIC

ROOT = Path(__file__).parents[2]


@cache
def _may_enter() -> bool:
    return every_address.may_be_entered()


@pytest.fixture(autouse=True)
def _there() -> None:
    if not _may_enter():
        pytest.skip("this kernel lets us make no network namespace")


def inside(*command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in that world."""
    return subprocess.run(
        [*every_address.ENTER, sys.executable, *command],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def test_there_every_address_answers() -> None:
    """Public, private, link-local and metadata: all are this machine, so all could be reached."""
    code = """
import sys
from tests.support.egress_forms import AllAddresses
import socket
all_addresses = AllAddresses()
for address in sys.argv[1:]:
    socket.create_connection((address, all_addresses.port), timeout=5).close()
    assert all_addresses.take() == [address]
"""
    addresses = ["93.184.215.14", "10.0.0.1", "169.254.169.254", "198.18.0.1", "fd00:ec2::254", "64:ff9b::7f00:1"]
    done = inside("-c", code, *addresses, "2606:2800:21f:cb07::1")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_no_form_reaches_anybody_there(tmp_path: Path) -> None:
    # In a folder of its own: in there nobody may delete what other sessions left of other users' files.
    options = ["-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "there")]
    done = inside("-m", "pytest", *options, "tests/services/test_egress_forms.py")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 15
    assert "skipped" not in done.stdout


def test_a_name_that_changes_its_mind_is_connected_to_at_its_first_answer_or_not_at_all() -> None:
    """With the system's own resolver, and a name server whose answers live for no time."""
    done = inside("-m", "tests.support.rebinding")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("naive") == [INSIDE]  # who looks up again is led inside
    assert found.keys() == NAMES.keys() - {"naive.test"}
    assert {name: result["asked"] for name, result in found.items()} == dict.fromkeys(found, 1)
    for name in ("rebinding.test", "metadata.test"):
        assert found[name]["reached"] == [PUBLIC]
        assert found[name]["code"] in ("tls_failed", "connect_failed")
    for name in ("inside.test", "mixed.test", "mixed-turned.test"):
        assert (found[name]["code"], found[name]["reached"]) == ("address_not_allowed", [])
