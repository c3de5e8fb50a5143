"""What the documentation lists exists, and what exists is listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from shared.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def row(name: str) -> str:
    """The line of docs/settings.md for one setting."""
    field = Settings.model_fields[name]
    default = {PydanticUndefined: "required", None: "", (): ""}.get(field.default, f"`{field.default}`")
    return f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |"


def test_every_setting_is_documented_as_it_is() -> None:
    listed = re.findall(rf"^\| `{PREFIX}.*$", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    expected = [row(name) for name in Settings.model_fields]
    assert sorted(listed) == sorted(expected)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text())
    broken = [link for link in links if not (page.parent / link).exists()]
    assert not broken
