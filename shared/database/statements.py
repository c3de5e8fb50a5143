"""Statements that lie in files: `sql/NAME.sql` beside the modules of a package, one statement a file."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

from sqlalchemy import TextClause, text

_COMMENT_LINES = re.compile(r"^--.*\n", re.MULTILINE)
_FRAGMENT = re.compile(r"\{(\w+)\}")


def statement(package: str, name: str) -> TextClause:
    """Return the statement of `sql/NAME.sql` in a package, without the comment at its head.

    `{part}` in a statement stands for the text of `sql/part.sql`: what several statements have in common is there once.

    Raises:
        FileNotFoundError: there is no such file.

    """
    return text(_read(files(package) / "sql", name))


def _read(folder: Traversable, name: str) -> str:
    said = _COMMENT_LINES.sub("", (folder / f"{name}.sql").read_text(encoding="utf-8"))
    return _FRAGMENT.sub(lambda found: _read(folder, found[1]).strip(), said)
