"""Images that a model was trained on: counted by `evaluate`, refused by `calibrate`."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from deploy.cli import main
from tests.support import tiny_model
from tests.support.tiny_dataset import RECIPE, write_dataset
from worker.datasets.dataset import read_dataset
from worker.datasets.formats import Split

NAME = "MINE"
WITHOUT = [argument for part in ("robustness", "controls", "formats") for argument in ("--without", part)]


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 24 images 12 are for training and 6 for validation."""
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that was trained on them."""
    torch.set_num_threads(1)
    folder = tiny_model.write_model(tmp_path_factory.mktemp("models"))
    (folder / "recipe.toml").write_text(RECIPE.replace("epochs = 3", "epochs = 1"))
    places = ("--adm", tiny_model.NAME, "--models-dir", folder, "--out", folder / "out")
    result = call("train", data, "--name", NAME, "--recipe", folder / "recipe.toml", "--device", "cpu", *places)
    assert result.exit_code == 0, result.output
    return folder / "out"


@pytest.fixture
def models(trained: Path, tmp_path: Path) -> Path:
    """A copy of the model's folder, without what only the training needs."""
    return Path(shutil.copytree(trained, tmp_path / "models", ignore=shutil.ignore_patterns("pairs")))


def evaluated(data: Path, models: Path, split: str) -> tuple[dict[str, Any], str]:
    out = models / "evaluation"
    common = ("--model", NAME, "--models-dir", models, "--device", "cpu", "--resamples", "100")
    result = call("evaluate", data, "--split", split, "--out", out, *common, *WITHOUT)
    assert result.exit_code == 0, result.output
    return json.loads((out / "report.json").read_text())["data"], (out / "report.html").read_text()


def calibrated(data: Path, models: Path, split: str) -> Result:
    common = ("--model", NAME, "--models-dir", models, "--device", "cpu")
    return call("calibrate", data, "--name", "half", "--youden", "--split", split, *common)


def said(result: Result) -> str:
    return " ".join(result.output.split())


def test_a_training_leaves_the_digests_of_its_images_beside_its_card(data: Path, trained: Path):
    left = json.loads((trained / f"{NAME}.training.json").read_text())["data"]["images"]
    splits: tuple[Split, Split] = ("train", "validation")
    assert list(left) == list(splits)
    for split in splits:
        files = [image.path.read_bytes() for image in read_dataset(data).of(split)]
        assert left[split] == sorted(hashlib.sha256(file).hexdigest()[:16] for file in files)


def test_an_evaluation_counts_the_images_that_the_model_knows_and_warns(
    data: Path, models: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        told, page = evaluated(data, models, "all")
    assert (told["seen_in_training"], told["seen_in_validation"]) == (12, 6)
    assert "12 of 24 images were used to train MINE" in caplog.text
    assert "The model was trained on 12 of these 24 images" in page
    assert "12 images from training, 6 from validation" in page


def test_what_each_image_took_part_in_stands_beside_its_score(data: Path, models: Path):
    evaluated(data, models, "all")
    with (models / "evaluation" / "scores.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {(row["split"], row["seen"]) for row in rows} == {
        ("train", "training"),
        ("validation", "validation"),
        ("test", ""),
    }


def test_images_are_known_under_any_path_and_split(data: Path, models: Path, tmp_path: Path):
    moved = Path(shutil.copytree(data.parent, tmp_path / "moved")) / "data.csv"
    moved.write_text(moved.read_text().replace("validation", "test"))
    told, page = evaluated(moved, models, "test")
    assert (told["seen_in_training"], told["seen_in_validation"]) == (0, 6)
    assert "0 images from training, 6 from validation" in page


def test_nothing_is_claimed_where_no_list_of_these_weights_is_beside_the_card(data: Path, models: Path):
    report = models / f"{NAME}.training.json"
    report.write_text(report.read_text().replace('"sha256": "', '"sha256": "0'))  # of other weights
    assert evaluated(data, models, "test")[0]["seen_in_training"] is None
    report.unlink()
    told, page = evaluated(data, models, "test")
    assert (told["seen_in_training"], told["seen_in_validation"]) == (None, None)
    assert "not known" in page
    assert "is not known: no" in said(calibrated(data, models, "all"))


def test_no_policy_is_made_of_images_that_the_model_was_trained_on(data: Path, models: Path):
    result = calibrated(data, models, "all")
    assert result.exit_code == 1
    assert "MINE was trained on 12 of these 24 images" in said(result)
    assert "--split validation" in said(result)
    assert "as they are" not in result.output, "no image was judged in vain"


def test_what_chose_the_best_epoch_is_said_when_a_policy_is_made(data: Path, models: Path):
    assert "None of these files took part" in said(calibrated(data, models, "test"))
    shutil.rmtree(models / f"{NAME}.policies", ignore_errors=True)
    assert "By 6 of these 6 images the training chose its best epoch" in said(calibrated(data, models, "validation"))


def test_a_damaged_report_is_named_with_a_remedy(data: Path, models: Path):
    (models / f"{NAME}.training.json").write_text("{")
    result = calibrated(data, models, "test")
    assert result.exit_code == 1
    assert "is no report of a training" in said(result)
