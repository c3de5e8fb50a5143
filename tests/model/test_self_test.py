"""The self-test: what a card's weights answer to a fixed picture, and who is refused by it."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest
import torch

from deploy.bench.model import seeded_detector
from tests.support.tiny_model import NAME, write_model
from worker.atomic_files import DiskFullError
from worker.inference.device import settle_batch
from worker.model import Detector, load_model, self_test, verify
from worker.model.cards.registry import BUNDLED, ModelError, read_card
from worker.model.cards.schema import Format
from worker.model.self_test import SelfTestError


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder whose card has a self-test; do not change it."""
    folder = write_model(tmp_path_factory.mktemp("recorded"))
    assert verify(NAME, folder, record=True).self_test == "passed"
    return folder


@pytest.fixture
def folder(recorded: Path, tmp_path: Path) -> Path:
    """A copy, to spoil."""
    return Path(shutil.copytree(recorded, tmp_path / "models"))


def loaded(folder: Path, precision: Format = "fp32") -> Detector:
    return load_model(NAME, device="cpu", precision=precision, models_dir=folder)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_recorded_weights_pass_in_every_format(recorded: Path, precision: Format):
    assert self_test.check(loaded(recorded, precision))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("network", "told"), [("unet", "noise map is off"), ("student", "logit is")])
def test_other_weights_are_refused_in_every_format(recorded: Path, precision: Format, network: str, told: str):
    detector = loaded(recorded, precision)
    stream = torch.Generator().manual_seed(3)
    for parameter in getattr(detector, network).parameters():
        if parameter.ndim > 1:
            spread = 0.2 * parameter.float().std()
            parameter.data += (spread * torch.randn(parameter.shape, generator=stream)).to(parameter.dtype)
    with pytest.raises(SelfTestError, match=told) as caught:
        settle_batch(detector, 4)  # as a worker's start does
    assert f"in {precision} on cpu" in caught.value.message
    assert "--record" in caught.value.message


def test_an_answer_that_is_no_number_is_refused(recorded: Path):
    detector = loaded(recorded)
    next(detector.student.parameters()).data.fill_(float("nan"))
    with pytest.raises(SelfTestError, match="logit is nan"):
        self_test.check(detector)


def test_a_student_of_dire_images_is_tested_in_one_pass_too(recorded: Path):
    card = read_card(recorded / "card.toml")
    rival = card.model_copy(update={"student": card.student.model_copy(update={"inputs": "dire"})})
    detector, passes = seeded_detector(rival, torch.device("cpu"), torch.float32), []
    detector.unet.register_forward_hook(lambda *_: passes.append(1))
    self_test.answer(detector)
    assert len(passes) == 1


def test_a_card_without_self_test_is_served(tmp_path: Path):
    detector = loaded(write_model(tmp_path))
    assert not self_test.check(detector)
    assert settle_batch(detector, 1).batch == 1


def test_recording_changes_nothing_else_of_the_card(recorded: Path, folder: Path, tmp_path: Path):
    before = write_model(tmp_path).joinpath("card.toml").read_text()
    once = (recorded / "card.toml").read_text()
    assert once.startswith(before.rstrip())
    verify(NAME, folder, record=True)
    assert (folder / "card.toml").read_text() == once


def test_on_a_full_disk_the_card_stays_as_it_was(folder: Path):
    """The system refuses to let any file grow beyond a limit, as a full disk does."""
    detector, before = loaded(folder), sorted((path, path.read_bytes()) for path in folder.iterdir())
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, usual[1]))
    try:
        with pytest.raises(DiskFullError, match=r"no space.*again"):
            self_test.record(detector, folder / "card.toml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert sorted((path, path.read_bytes()) for path in folder.iterdir()) == before


def test_a_section_amid_the_card_is_replaced(folder: Path):
    card = folder / "card.toml"
    recorded = read_card(card)
    card.write_text(card.read_text().replace("logit = ", "logit = 1") + '\n[provenance]\nby = "hand"\n')
    assert verify(NAME, folder, device="cpu").self_test == "failed"
    verify(NAME, folder, record=True)
    assert read_card(card) == recorded.model_copy(update={"provenance": {"by": "hand"}})


def test_a_bundled_card_is_recorded_in_the_operators_folder(tmp_path: Path):
    verification = verify("DISTILDIRE-DEMO", tmp_path, record=True)
    assert verification.self_test == "passed"
    assert read_card(tmp_path / "DISTILDIRE-DEMO.toml").self_test is not None
    report = "DISTILDIRE-DEMO.training.json"  # by which images are known that the model was trained on
    assert (tmp_path / report).read_bytes() == (BUNDLED / report).read_bytes()


def test_a_bundled_card_is_not_recorded_in_the_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DISTILDIRE_MODELS_DIR", raising=False)
    before = (BUNDLED / "DISTILDIRE-DEMO.toml").read_bytes()
    with pytest.raises(ModelError, match="--models-dir"):
        verify("DISTILDIRE-DEMO", record=True)
    assert (BUNDLED / "DISTILDIRE-DEMO.toml").read_bytes() == before


def test_recording_writes_over_no_other_card(tmp_path: Path):
    other = tmp_path / "DISTILDIRE-DEMO.toml"
    other.write_text((BUNDLED / "DISTILDIRE-V1.toml").read_text().replace("DISTILDIRE-V1", "OTHER"))
    with pytest.raises(ModelError, match="card of another model than DISTILDIRE-DEMO"):
        verify("DISTILDIRE-DEMO", tmp_path, record=True)
    assert read_card(other).name == "OTHER"
