"""Importing weights: which of the card's files a file is, and that it is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from worker.model import ModelError, find_card
from worker.model.cards.registry import InstalledCard
from worker.model.weights.digests import identify, read_record
from worker.model.weights.installation import place, recognise

ADM, STUDENT = b"a" * 1_500_000, b"s" * 1000
_CARD = f"""
name = "MINE"
license = "CC0-1.0"
image_size = 64
[adm]
weights = "deep/adm.pt"
md5 = "{hashlib.md5(ADM).hexdigest()}"
num_channels = 32
num_res_blocks = 1
channel_mult = [1]
num_heads = 1
[student]
weights = "student.pth"
sha256 = "{hashlib.sha256(STUDENT).hexdigest()}"
backbone = "resnet18"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The operator's models folder, with the card."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "card.toml").write_text(_CARD)
    return tmp_path / "models"


@pytest.fixture
def installed(folder: Path) -> InstalledCard:
    return find_card("MINE", folder)


@pytest.fixture
def brought(tmp_path: Path) -> list[Path]:
    """Student and ADM under names of no meaning, in the order in which somebody happens to give them."""
    paths = [tmp_path / "1.bin", tmp_path / "2.bin"]
    for path, content in zip(paths, (STUDENT, ADM), strict=True):
        path.write_bytes(content)
    return paths


def bring_in(paths: list[Path], installed: InstalledCard, folder: Path, *, link: bool = False) -> None:
    for file in recognise(paths, installed, folder):
        place(file, link=link)


@pytest.mark.parametrize("link", [False, True])
def test_files_are_recognised_by_their_digests(installed: InstalledCard, folder: Path, brought: list[Path], link: bool):
    bring_in(brought, installed, folder, link=link)
    adm, student = folder / "deep" / "adm.pt", folder / "student.pth"
    assert (adm.read_bytes(), student.read_bytes()) == (ADM, STUDENT)
    assert adm.samefile(brought[1]) is link
    record = read_record(adm)
    assert record is not None
    assert record.sha256 == record.published.sha256 == hashlib.sha256(ADM).hexdigest()
    assert identify(adm, installed.card.adm) == record.sha256
    names = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert names == ["adm.pt", "adm.pt.record.json", "card.toml", "student.pth", "student.pth.record.json"]


def test_if_one_file_is_none_of_the_cards_none_is_imported(
    installed: InstalledCard, folder: Path, brought: list[Path], tmp_path: Path
):
    other = tmp_path / "student.pth"
    other.write_bytes(STUDENT[:-1])
    with pytest.raises(ModelError) as caught:
        bring_in([*brought, other], installed, folder)
    for told in (str(other), "its sha256 is", "student.pth (sha256", "deep/adm.pt (md5", "Nothing was imported"):
        assert told in caught.value.message
    assert [path.name for path in folder.iterdir()] == ["card.toml"]


def test_a_file_without_digest_in_its_card_is_known_by_its_name(folder: Path, tmp_path: Path):
    card = folder / "card.toml"
    card.write_text("".join(line for line in _CARD.splitlines(keepends=True) if not line.startswith("sha256")))
    installed = find_card("MINE", folder)
    brought = tmp_path / "student.pth"
    brought.write_bytes(b"anything")
    bring_in([brought], installed, folder)
    placed = folder / "student.pth"
    identify(placed, installed.card.student)
    placed.write_bytes(b"something else")  # from its import on it is known by its digest
    with pytest.raises(ModelError, match="damaged or altered since it was installed"):
        identify(placed, installed.card.student)


def test_a_file_that_lies_in_its_place_gets_a_record(installed: InstalledCard, folder: Path):
    placed = folder / "student.pth"
    placed.write_bytes(STUDENT)
    before = placed.stat().st_ino
    bring_in([placed], installed, folder)
    assert placed.stat().st_ino == before
    assert read_record(placed) is not None


def test_another_file_in_its_place_is_kept(installed: InstalledCard, folder: Path, brought: list[Path]):
    placed = folder / "student.pth"
    placed.write_bytes(b"of somebody")
    with pytest.raises(ModelError, match=f"{placed} exists and is another file"):
        bring_in(brought, installed, folder)
    assert placed.read_bytes() == b"of somebody"


def test_importing_twice_is_no_mistake(installed: InstalledCard, folder: Path, brought: list[Path]):
    bring_in(brought, installed, folder)
    bring_in(brought, installed, folder)
    assert (folder / "student.pth").read_bytes() == STUDENT


def test_a_file_that_changes_while_it_is_copied_does_not_appear(
    installed: InstalledCard, folder: Path, brought: list[Path]
):
    (file,) = recognise(brought[:1], installed, folder)
    brought[0].write_bytes(bytes(reversed(STUDENT)) + b"!")
    with pytest.raises(ModelError, match="changed while it was copied"):
        place(file)
    assert [path.name for path in folder.iterdir()] == ["card.toml"]


def test_space_is_looked_for_before_the_copy(
    installed: InstalledCard, folder: Path, brought: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=len(STUDENT) - 1))
    with pytest.raises(ModelError, match=r"are needed in .*/models"):
        bring_in(brought, installed, folder)
    assert [path.name for path in folder.iterdir()] == ["card.toml"]


def test_what_cannot_be_linked_says_to_copy(
    installed: InstalledCard, folder: Path, brought: list[Path], monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(ModelError, match=r"cross-device link. Run the command without --link"):
        bring_in(brought, installed, folder, link=True)
