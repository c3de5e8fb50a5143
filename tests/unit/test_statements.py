"""Statements in files: each is used, says what it does, and is sent as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.database.statements import statement

SHARED = Path(__file__).parents[2] / "shared"
FILES = sorted(path.relative_to(SHARED).as_posix() for path in SHARED.rglob("*.sql"))
#: What modules and other statements name.
NAMED = {
    *(
        f"{package.replace('.', '/')}/sql/{name}.sql"
        for module in SHARED.rglob("*.py")
        for package, name in re.findall(r'statement\("shared\.([\w.]+)", "(\w+)"\)', module.read_text(encoding="utf-8"))
    ),
    *(
        f"{file.rsplit('/', 1)[0]}/{name}.sql"
        for file in FILES
        for name in re.findall(r"\{(\w+)\}", (SHARED / file).read_text(encoding="utf-8"))
    ),
}


def test_each_file_is_named_and_each_name_is_a_file():
    assert set(FILES) == NAMED


@pytest.mark.parametrize("file", FILES)
def test_the_head_of_a_file_says_what_it_is_for(file: str):
    head = re.match(r"(?:--.*\n)+", (SHARED / file).read_text(encoding="utf-8"))
    assert head
    assert head[0].rstrip().endswith(".")


def test_the_comment_is_not_sent_and_fragments_are():
    said = str(statement("shared.jobs", "claim"))
    assert said.startswith("WITH ")
    assert "{" not in said
