"""`distildire train` without a generator, and on labels that mean nothing: what it takes, and that its card says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from deploy.cli import main
from tests.support import tiny_model
from tests.support.tiny_dataset import RECIPE, write_dataset
from worker.model import load_model

NAME = "CONTROL"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set of two generators, a model whose ADM is taken, and a recipe."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("desk")
    manifest = write_dataset(folder / "data")
    text = manifest.read_text()
    for number in (3, 7, 8):  # two to train with, one of the validation
        text = text.replace(f"fake,stripes,photograph-{number},", f"fake,dots,photograph-{number},")
    manifest.write_text(text)
    (folder / "models").mkdir()
    tiny_model.write_model(folder / "models")
    (folder / "recipe.toml").write_text(RECIPE.replace("epochs = 3", "epochs = 1"))
    return folder


def train(desk: Path, out: str, *more: str) -> Result:
    places = [str(desk / "data/data.csv"), "--models-dir", str(desk / "models"), "--out", str(desk / out)]
    named = ["--adm", tiny_model.NAME, "--name", NAME, "--recipe", str(desk / "recipe.toml"), "--device", "cpu"]
    return CliRunner().invoke(main, ["train", *places, *named, *more])


def test_report_and_card_say_what_was_left_out_and_that_labels_mean_nothing(desk: Path) -> None:
    result = train(desk, "out", "--without-generator", "dots", "--permute-labels")
    assert result.exit_code == 0, result.output
    data = json.loads((desk / "out" / f"{NAME}.training.json").read_text())["data"]
    assert data["splits"]["train"] == {"reals": 6, "fakes": {"unknown": 4}, "groups": 6}
    assert data["splits"]["validation"] == {"reals": 3, "fakes": {"unknown": 2}, "groups": 3}
    assert (data["without_generators"], data["permuted_labels"]) == (["dots"], True)
    card = load_model(NAME, device="cpu", models_dir=desk / "out").card
    assert card.provenance["without_generators"] == "dots"
    assert card.provenance["labels"] == "shuffled: they mean nothing"
    assert card.notice is not None
    assert "its verdicts mean nothing" in card.notice
    assert card.demonstration
    for other in ((), ("--permute-labels",), ("--without-generator", "dots")):
        refused = train(desk, "out", *other)
        assert refused.exit_code == 1
        assert "was made with" in refused.output


def test_what_cannot_be_left_out_is_refused_before_any_work(desk: Path) -> None:
    unknown = train(desk, "x", "--without-generator", "dots", "--without-generator", "adm")
    assert unknown.exit_code == 1
    assert "no fake of the generator 'adm' is there to be excluded, only of dots, stripes" in unknown.output
    nothing_left = train(desk, "x", "--without-generator", "dots", "--without-generator", "stripes")
    assert nothing_left.exit_code == 1
    assert "the split train has no fake image" in nothing_left.output
    assert "the split validation has no fake image" in nothing_left.output
    assert not (desk / "x").exists()
