"""What docs/architecture.md says of where to change what, and how many modules a folder may have."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from docs.reference.source import FOLDERS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
MOST_MODULES = 14


def rows() -> dict[str, str]:
    """What is added, and the cell that lists the files."""
    table = PAGE.split("## Where to change what")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| a")]
    return {line[0]: line[1] for line in lines}


def file_of(name: str) -> Path:
    return next(path for path in (ROOT / name, ROOT / f"{name}.py") if path.exists())


@pytest.mark.parametrize("what", rows())
def test_each_file_of_a_row_has_the_names_that_stand_behind_it(what: str) -> None:
    cell = rows()[what]
    named = re.findall(r"`([\w./-]*/[\w./-]*)`(?: \(([^)]*)\))?", cell)
    assert named
    missing = [
        f"{path}: {name}"
        for path, words in named
        for name in re.findall(r"`(\w+)`", words)
        if not re.search(rf"\b{name}\b", file_of(path).read_text())
    ]
    assert not missing


def product_files() -> list[Path]:
    return [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


def test_no_folder_has_more_modules_than_one_takes_in() -> None:
    counts = Counter(path.parent for path in product_files() if path.name != "__init__.py")
    counts.pop(ROOT / "migrations/versions")  # one for each change of the schema: they only grow
    assert not {str(folder): count for folder, count in counts.items() if count > MOST_MODULES}
