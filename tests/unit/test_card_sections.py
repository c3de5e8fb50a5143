"""Sections of a card's file, written without touching the rest."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from worker.model.cards.editing import write_section
from worker.model.cards.registry import BUNDLED, ModelError, read_card
from worker.model.cards.schema import SelfTest

SECTION = {
    "made_at": "2026-11-22",
    "data_sha256": "0" * 64,
    "threshold": 0.5,
    "reals": 10,
    "fakes": 10,
    "groups": 10,
    "confidence": 0.95,
    "estimates": {"average_precision": (0.9, 0.8, 1.0)},
}
HELD_OUT = ("evaluations", "held-out")
ANSWER = {"eps": [0.5] * 16, "logit": 1.0}


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "card.toml"
    path.write_text((BUNDLED / "DISTILDIRE-DEMO.toml").read_text(encoding="utf-8"), encoding="utf-8")
    return path


def test_a_section_is_added_and_replaced_with_what_is_below_it(card: Path):
    write_section(card, HELD_OUT, SECTION, "Measured.")
    once = card.read_text()
    write_section(card, HELD_OUT, SECTION | {"estimates": {"average_precision": (0.95, 0.8, 1.0)}}, "Measured.")
    assert read_card(card).evaluations["held-out"].estimates["average_precision"] == (0.95, 0.8, 1.0)
    assert card.read_text() == once.replace("0.9,", "0.95,")


def test_fields_that_the_section_no_longer_has_are_removed(card: Path):
    more = SECTION | {"policy": "strict", "average_precision_of": {"labels dealt out anew": (0.5, 0.4, 0.6)}}
    write_section(card, HELD_OUT, more, "Measured.")
    assert read_card(card).evaluations["held-out"].model_dump(exclude_unset=True) == more
    write_section(card, HELD_OUT, SECTION, "Measured.")
    written = read_card(card).evaluations["held-out"]
    assert (written.policy, written.average_precision_of) == (None, {})


def test_other_sections_and_their_comments_stay(card: Path):
    write_section(card, HELD_OUT, SECTION, "Measured.")
    write_section(card, ("evaluations", "held-out-2"), SECTION, "By hand.")
    before, text = read_card(card), card.read_text()
    write_section(card, HELD_OUT, SECTION, "Again.")
    assert read_card(card) == before
    assert card.read_text() == text
    assert text.count("[evaluations.held-out-2]\n# By hand.\n") == 1
    assert text.count("[evaluations.held-out]\n# Measured.\n") == 1
    assert text.count("\n[self_test]\n") == 1


@pytest.mark.parametrize("header", ["  [self_test]", '["self_test"]', "[ self_test ]", "['self_test'] # mine"])
def test_a_section_is_found_however_its_header_is_written(card: Path, header: str):
    before = card.read_text()
    card.write_text(before.replace("\n[self_test]\n", f"\n{header}\n"))
    write_section(card, ("self_test",), ANSWER, "Recorded.")
    assert read_card(card).self_test == SelfTest.model_validate(ANSWER)
    assert f"\n{header}\n" in card.read_text()


OPERATORS = f"""
# Above.
[evaluations.mine]  # beside the header
made_at = "2026-11-22"  # the day
data_sha256 = "{"0" * 64}"
threshold = 0.5
reals = 10
fakes = 10
groups = 10
# between
confidence = 0.95
[evaluations.mine.estimates]
average_precision = [0.9, 0.8, 1.0]
# Above the next one.
[evaluations.other]
made_at = "2026-11-22"
data_sha256 = "{"0" * 64}"
threshold = 0.75
reals = 10
fakes = 10
groups = 10
confidence = 0.95
[evaluations.other.estimates]
"""


def test_comments_of_the_operator_stay_where_they_are(card: Path):
    before = card.read_text()
    card.write_text(before + OPERATORS)
    write_section(card, ("evaluations", "mine"), SECTION | {"threshold": 0.25}, "Measured.")
    assert card.read_text() == before + OPERATORS.replace("threshold = 0.5\n", "threshold = 0.25\n")


def test_what_would_make_the_card_invalid_is_not_written(card: Path):
    before = card.read_text()
    lacking = {name: value for name, value in SECTION.items() if name != "reals"}
    for wrong in (lacking, SECTION | {"threshold": math.nan}, SECTION | {"threshold": math.inf}):
        with pytest.raises(ModelError, match="wrong"):
            write_section(card, HELD_OUT, wrong, "Measured.")
    assert card.read_text() == before
    assert [path.name for path in card.parent.iterdir()] == ["card.toml"]
