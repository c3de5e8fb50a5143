"""Puts the tables into the pages, between their marks."""

from __future__ import annotations

import re
from pathlib import Path

from docs.reference.source import ROOT
from docs.reference.tables import TABLES

_PLACE = re.compile(r"(<!-- table: (?P<name>\S+)(?P<arguments>[^>]*) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return the pages that tables may be in."""
    return sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def rewritten(text: str) -> str:
    """Return a page's text with each of its tables as the code has it now."""

    def put(place: re.Match[str]) -> str:
        table = TABLES[place["name"]](*place["arguments"].split())
        return f"{place[1]}\n{table}\n\n{place[4]}"

    return _PLACE.sub(put, text)
