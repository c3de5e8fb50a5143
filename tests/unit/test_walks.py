"""docs/walks.md: its files are there, and it follows what the code does."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Step:
    """One line of a walk: a file, and the names in it that the sentence quotes."""

    path: str
    names: tuple[str, ...]

    @property
    def text(self) -> str:
        return (ROOT / self.path).read_text()

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").replace("/", ".")

    @property
    def imports(self) -> set[str]:
        """Modules that the file names in imports, wherever they stand."""
        found: set[str] = set()
        for node in ast.walk(ast.parse(self.text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        return found


def walks() -> dict[str, list[Step]]:
    parts = re.split(r"^## (.*)$", (ROOT / "docs/walks.md").read_text(), flags=re.MULTILINE)[1:]
    return {title: steps(text) for title, text in zip(parts[::2], parts[1::2], strict=True)}


def steps(text: str) -> list[Step]:
    lines = re.findall(r"^\d+\. \[([^]]+)\]\(\.\./\1\): ((?:.|\n(?! *\d+\. ))*)", text, re.MULTILINE)
    assert len(lines) == len(re.findall(r"^\d+\.", text, re.MULTILINE)), "a line does not begin with a link to its file"
    return [Step(path, tuple(re.findall(r"`([A-Za-z_]+)`", sentence))) for path, sentence in lines]


WALKS = walks()


def test_all_four_walks_are_there() -> None:
    assert [*WALKS] == ["The bytes of an image", "A job id", "A policy", "A labelled image"]


@pytest.mark.parametrize("walk", WALKS)
def test_each_file_is_there_and_has_what_is_quoted_of_it(walk: str) -> None:
    missing = [step.path for step in WALKS[walk] if not (ROOT / step.path).is_file()]
    assert not missing
    unknown = [
        f"{step.path}: {name}"
        for step in WALKS[walk]
        for name in step.names
        if not re.search(rf"\b{name}\b", step.text)
    ]
    assert not unknown


@pytest.mark.parametrize("walk", WALKS)
def test_each_file_is_tied_to_one_before_it(walk: str) -> None:
    """By an import in either direction: a process that gets work from another shares a module with it."""
    untied = []
    for at, step in enumerate(WALKS[walk][1:], 1):
        before = WALKS[walk][:at]
        if not any(other.module in step.imports or step.module in other.imports for other in before):
            untied.append(step.path)
    assert not untied


def test_the_policy_passes_no_file_twice() -> None:
    paths = [step.path for step in WALKS["A policy"]]
    assert sorted(paths) == sorted(set(paths))
