"""Has mutmut plant every fault it knows in a module's files, each alone, and run the tests that come by it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.modules import Module
from tests.mutants.survivors import Change, change_of

ROOT = Path(__file__).parents[2]
#: An environment of mutmut's own: what tests the project must not change what is installed for it.
ENVIRONMENT = ROOT / ".venv/mutants"
_PROGRAM = str(ENVIRONMENT / "bin/mutmut")
#: What the tests read beside the folders that hold the code.
_BESIDE = ("docs", "README.md", "CHANGELOG.md")
_CODE = ("api", "deploy", "migrations", "shared", "worker")
_UNTRIED = {"not checked", "check was interrupted by user"}
_CAUGHT = {"killed", "timeout", "segfault", "suspicious", "caught by type check"}


class PlantingError(Exception):
    """mutmut could not do its work."""


@dataclass(frozen=True)
class Planted:
    """What came of a module's faults."""

    total: int
    caught: int
    survivors: Sequence[Change]
    untested: Sequence[Change]
    """Faults in what none of the tests comes by."""


def plant(name: str, module: Module) -> Planted:
    """Plant the faults of a module, one after another; raise `PlantingError` where the tests fail without one."""
    place = _prepare(ENVIRONMENT / "work" / name, module)
    with (place / "log").open("wb") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        # One at a time: a fault that is noticed because two runs were in each other's way was not noticed.
        command = [_PROGRAM, "run", "--max-children", "1"]
        done = subprocess.run(command, cwd=place, env=environment, stdout=log, stderr=log, check=False)
    if done.returncode:
        raise PlantingError(f"mutmut ended with {done.returncode}; its log is {place / 'log'}.")
    found = dict(line.strip().split(": ", 1) for line in _mutmut(place, "results", "--all", "true").splitlines())
    if untried := sum(state in _UNTRIED for state in found.values()):
        raise PlantingError(f"mutmut was interrupted: {untried} of {len(found)} faults were not tried. Run it again.")
    left = {fault: state for fault, state in found.items() if state not in _CAUGHT}
    changes = {fault: change_of(_mutmut(place, "show", fault)) for fault in left}
    counts = Counter(found.values())
    return Planted(
        total=len(found),
        caught=sum(counts[state] for state in _CAUGHT),
        survivors=[changes[fault] for fault, state in left.items() if state == "survived"],
        untested=[changes[fault] for fault, state in left.items() if state != "survived"],
    )


def _prepare(place: Path, module: Module) -> Path:
    """Make a folder for mutmut, which copies what it finds there; nothing is kept of an earlier run."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name in (*_CODE, *_BESIDE, "tests", "pyproject.toml"):
        (place / name).symlink_to(ROOT / name)
    settings = ConfigParser()
    settings["mutmut"] = {
        "source_paths": _lines("shared", "worker"),
        "only_mutate": _lines(*module.files),
        "also_copy": _lines("api", "deploy", "migrations", *_BESIDE),
        "pytest_add_cli_args_test_selection": _lines(*module.tests),
        "pytest_add_cli_args": _lines("-m", "not slow"),
        "timeout_constant": str(module.starting_seconds),
        "timeout_multiplier": "4",
    }
    with (place / "setup.cfg").open("w") as file:
        settings.write(file)
    return place


def _lines(*values: str) -> str:
    return "\n" + "\n".join(values)


def _mutmut(place: Path, *arguments: str) -> str:
    done = subprocess.run([_PROGRAM, *arguments], cwd=place, check=True, capture_output=True, text=True)
    return done.stdout
