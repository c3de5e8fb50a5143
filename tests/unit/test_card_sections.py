"""Sections of a card's file, written without touching the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.model.cards.editing import write_section
from worker.model.cards.registry import BUNDLED, ModelError, read_card

SECTION = [
    "# Measured.",
    "[evaluations.held-out]",
    'made_at = "2026-11-22"',
    f'data_sha256 = "{"0" * 64}"',
    "threshold = 0.5",
    "reals = 10",
    "fakes = 10",
    "groups = 10",
    "confidence = 0.95",
    "",
    "[evaluations.held-out.estimates]",
    "average_precision = [0.9, 0.8, 1.0]",
]


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "card.toml"
    path.write_text((BUNDLED / "DISTILDIRE-DEMO.toml").read_text(encoding="utf-8"), encoding="utf-8")
    return path


def test_a_section_is_added_and_replaced_with_what_is_below_it(card: Path):
    write_section(card, "evaluations.held-out", SECTION)
    once = card.read_text()
    changed = [line.replace("0.9,", "0.95,") for line in SECTION]
    write_section(card, "evaluations.held-out", changed)
    assert read_card(card).evaluations["held-out"].estimates["average_precision"] == (0.95, 0.8, 1.0)
    assert card.read_text() == once.replace("0.9,", "0.95,")


def test_other_sections_and_their_comments_stay(card: Path):
    other = [line.replace("held-out", "held-out-2").replace("# Measured.", "# By hand.") for line in SECTION]
    write_section(card, "evaluations.held-out", SECTION)
    write_section(card, "evaluations.held-out-2", other)
    before = read_card(card)
    write_section(card, "evaluations.held-out", SECTION)
    assert read_card(card) == before
    text = card.read_text()
    assert text.count("# By hand.\n[evaluations.held-out-2]\n") == 1
    assert text.count("# Measured.\n[evaluations.held-out]\n") == 1
    assert text.count("\n[self_test]\n") == 1


def test_what_would_make_the_card_invalid_is_not_written(card: Path):
    before = card.read_text()
    with pytest.raises(ModelError, match="wrong"):
        write_section(card, "evaluations.held-out", [line for line in SECTION if "reals" not in line])
    assert card.read_text() == before
    assert [path.name for path in card.parent.iterdir()] == ["card.toml"]
