"""Loads SQL statements from files: `sql/NAME.sql` beside the modules of a package, one statement in each file."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

from sqlalchemy import TextClause, text

_COMMENT_LINES = re.compile(r"^--.*\n", re.MULTILINE)
_FRAGMENT = re.compile(r"\{(\w+)\}")


def statement(package: str, name: str) -> TextClause:
    """Return the statement in `sql/NAME.sql` of a package, without its comment lines.

    `{part}` in a statement is replaced by the text of `sql/part.sql`, so that statements can share a fragment.

    Raises:
        FileNotFoundError: there is no such file.

    """
    return text(_read(files(package) / "sql", name))


def _read(folder: Traversable, name: str) -> str:
    said = _COMMENT_LINES.sub("", (folder / f"{name}.sql").read_text(encoding="utf-8"))
    return _FRAGMENT.sub(lambda found: _read(folder, found[1]).strip(), said)
