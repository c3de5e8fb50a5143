"""What the documentation lists exists, and what exists is listed."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from pydantic_core import PydanticUndefined

from shared.settings import PREFIX, Settings
from worker.model.policy import Evidence, Policy
from worker.training.figures import Figures, Resampling, figures
from worker.training.report import Controls, Data, ModelIdentity, Report

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


def test_every_field_of_reports_and_policies_is_documented() -> None:
    words = set(re.findall(r"[\w.]+", (ROOT / "docs/evaluation.md").read_text()))
    found = figures(np.array([0.2, 0.8]), np.array([False, True]), np.array(["a", "b"]), 0.5, Resampling(resamples=2))
    names = {field.name for part in (Report, Figures, ModelIdentity, Data) for field in fields(part)}
    names |= {f"controls.{field.name}" for field in fields(Controls)} | set(found.estimates)
    names |= {name for part in (Policy, Evidence) for name in part.model_fields}
    assert not {name for name in names if name not in words and f"evidence.{name}" not in words}
