"""`verify` tells all that is wrong with a model; `convert` makes files that count as the card's."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.support.tiny_model import NAME, write_model
from tests.support.tiny_policy import write_tiny_policies
from worker.model import ModelError, find_card, load_model, verify
from worker.model.weights.conversion import convert
from worker.model.weights.digests import digests, published_digests, read_record, record_path
from worker.model.weights.state_dicts import read_state

ADM, STUDENT = "tiny-adm.safetensors", "tiny-student.pth"


@pytest.fixture
def folder(tiny_files: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to spoil. Its card states an MD5 of the student."""
    copy = Path(shutil.copytree(tiny_files, tmp_path / "models"))
    md5 = digests(copy / STUDENT, ["md5"])["md5"]
    card = copy / "tiny.toml"
    card.write_text(card.read_text().replace("[student]", f'[student]\nmd5 = "{md5}"'))
    return copy


def test_a_sound_model_is_described(folder: Path):
    verification = verify("TINY", folder, device="cpu", precision="fp32")
    assert verification.problems == ()
    adm, student = verification.files
    assert (adm.part, adm.path, adm.stated) == ("adm", folder / ADM, ())
    assert (student.path, student.stated) == (folder / STUDENT, ("md5",))
    assert adm.size == (folder / ADM).stat().st_size
    assert adm.sha256 == digests(folder / ADM, ["sha256"])["sha256"]
    assert adm.parameters == sum(tensor.numel() for tensor in read_state(folder / ADM).values())
    assert (verification.self_test, verification.device, verification.precision) == ("absent", "cpu", "fp32")
    assert verification.weights_sha256 == load_model("TINY", "cpu", models_dir=folder).weights_sha256


def test_all_that_is_wrong_is_told(folder: Path):
    os.truncate(folder / ADM, 1000)
    os.truncate(folder / STUDENT, 1000)
    verification = verify("TINY", folder)
    assert [file.part for file in verification.files if file.problem] == ["adm", "student"]
    assert "cannot be read as weights" in verification.problems[0]
    assert "its md5 is" in verification.problems[1]
    assert verification.files[1].size == 1000
    assert verification.self_test == "not run"


def test_policies_that_a_worker_would_leave_out_are_problems_and_no_faults(tmp_path: Path):
    write_tiny_policies(write_model(tmp_path), weights_sha256="cd" * 32)
    verification = verify(NAME, tmp_path, device="cpu")
    assert (verification.policies, verification.faults) == ((), ())
    assert ["made for the weights cdcd" in problem for problem in verification.problems] == [True, True]


def converted(folder: Path) -> Path:
    installed = find_card("TINY", folder)
    target = convert(installed, installed.card.student)
    assert target == folder / f"{STUDENT}.safetensors"
    return target


def test_a_converted_file_is_the_same_model(folder: Path):
    before = load_model("TINY", "cpu", "fp32", folder)
    source = published_digests(folder / STUDENT)
    (folder / STUDENT).chmod(0o644)
    target = converted(folder)
    assert target.stat().st_mode == (folder / STUDENT).stat().st_mode
    (folder / STUDENT).unlink()

    after = load_model("TINY", "cpu", "fp32", folder)

    assert after.weights_sha256 == before.weights_sha256
    assert verify("TINY", folder).files[1].sha256 == source.sha256
    for name, tensor in before.student.state_dict().items():
        assert torch.equal(after.student.state_dict()[name], tensor)
    with safe_open(target, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["source"], metadata["source_sha256"]) == (STUDENT, source.sha256)


def test_a_converted_file_that_was_altered_is_refused(folder: Path):
    target = converted(folder)
    content = bytearray(target.read_bytes())
    content[-1] ^= 1
    target.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged or altered since it was installed"):
        load_model("TINY", "cpu", models_dir=folder)


def test_a_converted_file_of_other_weights_is_not_the_cards(folder: Path):
    """As when the card is of a newer release than what was converted."""
    converted(folder)
    card = folder / "tiny.toml"
    card.write_text(re.sub(r'md5 = "\w+"', f'md5 = "{"0" * 32}"', card.read_text()))
    with pytest.raises(ModelError, match=r"is not the file that its card describes: its md5 is"):
        load_model("TINY", "cpu", models_dir=folder)


def test_a_converted_file_without_its_record_does_not_count(folder: Path):
    record_path(converted(folder)).unlink()
    with pytest.raises(ModelError, match="not the file that its card describes"):
        load_model("TINY", "cpu", models_dir=folder)


def test_an_unreadable_record_is_named(folder: Path):
    place = record_path(converted(folder))
    place.write_text("{")
    with pytest.raises(ModelError, match=f"{place} is not a record"):
        load_model("TINY", "cpu", models_dir=folder)


def test_safetensors_are_not_converted(folder: Path):
    installed = find_card("TINY", folder)
    assert convert(installed, installed.card.adm) is None


def test_a_damaged_file_is_not_converted(folder: Path):
    os.truncate(folder / STUDENT, 1000)
    installed = find_card("TINY", folder)
    with pytest.raises(ModelError, match="its md5 is"):
        convert(installed, installed.card.student)
    assert not list(folder.glob("*.partial"))
    assert read_record(folder / STUDENT) is None
