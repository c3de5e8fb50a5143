"""The locks: what they pin, and what the metadata of installed distributions says is needed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import requires as metadata_requires
from pathlib import Path
from typing import Any

from packaging.markers import Marker, default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = {
    "dev": ROOT / "requirements.txt",
    "api": ROOT / "deploy/docker/api.txt",
    "worker": ROOT / "deploy/docker/worker.txt",
}
#: Where the project promises to run.
PYTHONS = ("3.11.0", "3.11.7", "3.12.0", "3.13.0", "3.14.0")
MACHINES = ("x86_64", "aarch64")

_HASH = re.compile(r"--hash=(\S+)")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


class LockError(Exception):
    """A line of a lock is no pinned distribution with hashes; the message quotes it."""


@dataclass(frozen=True)
class Pin:
    """One version of one distribution, where it applies, and the files that may be installed."""

    name: str
    version: str
    marker: Marker | None
    hashes: frozenset[str]

    def applies(self, environment: Mapping[str, str]) -> bool:
        """Whether it is installed there."""
        return self.marker is None or self.marker.evaluate(dict(environment))


def read_lock(text: str) -> list[Pin]:
    """Return every pin of a lock. Raises LockError where a line is anything else, or lacks a hash."""
    joined = re.sub(r"\\\n", " ", text)
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
    return [_pin(line) for line in lines if line]


def _pin(line: str) -> Pin:
    hashes = frozenset(_HASH.findall(line))
    try:
        requirement = Requirement(_HASH.sub("", line).strip())
    except InvalidRequirement as error:
        raise LockError(f"no requirement: {line}") from error
    pinned = re.fullmatch(r"==([^*]+)", str(requirement.specifier))
    if pinned is None or requirement.url:
        raise LockError(f"not pinned: {line}")
    if not hashes or not all(map(_SHA256.fullmatch, hashes)):
        raise LockError(f"no SHA-256: {line}")
    return Pin(canonicalize_name(requirement.name), pinned[1], requirement.marker, hashes)


def environments() -> Iterator[dict[str, str]]:
    """The values that markers are evaluated with, for each Python and machine that the project promises to run on."""
    fixed = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    for version in PYTHONS:
        for machine in MACHINES:
            python = {
                "python_version": version.rpartition(".")[0],
                "python_full_version": version,
                "implementation_version": version,
                "platform_machine": machine,
            }
            yield {**{name: str(value) for name, value in default_environment().items()}, **fixed, **python}


def project() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements(extra: str) -> list[Requirement]:
    """The project's direct requirements with `extra`, those of the extras that it names included."""
    table = project()["project"]
    pending, direct = [Requirement(f"distildire[{extra}]")], []
    direct += [Requirement(line) for line in table["dependencies"]]
    while pending:
        for name in pending.pop().extras:
            for line in table["optional-dependencies"][name]:
                requirement = Requirement(line)
                (pending if requirement.name == "distildire" else direct).append(requirement)
    return direct


def needed(direct: list[Requirement], environment: Mapping[str, str]) -> Iterator[Requirement]:
    """Yield these requirements and, one after the other, those of the distributions that they name.

    Read from the metadata of what is installed here; what is not installed here is taken to require nothing.
    """
    pending, seen = list(direct), set[tuple[str, str]]()
    while pending:
        requirement = pending.pop()
        yield requirement
        for extra in {"", *requirement.extras}:
            if (requirement.name, extra) not in seen:
                seen.add((requirement.name, extra))
                pending += _required(requirement.name, extra, environment)


def _required(name: str, extra: str, environment: Mapping[str, str]) -> Iterator[Requirement]:
    for requirement in metadata_of(name) or ():
        if requirement.marker is None:
            applies = not extra
        else:
            applies = requirement.marker.evaluate({**environment, "extra": extra})
        if applies:
            yield requirement


@cache
def metadata_of(name: str) -> tuple[Requirement, ...] | None:
    """Return what an installed distribution requires, with or without an extra; None if it is not installed."""
    try:
        return tuple(map(Requirement, metadata_requires(name) or ()))
    except PackageNotFoundError:
        return None
