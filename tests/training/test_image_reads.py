"""A labelled image's file is read once: its digest and its pixels come from the same bytes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from deploy.cli import main
from tests.support import tiny_model
from tests.support.file_opens import counted_opens
from tests.support.tiny_dataset import write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    (tmp_path / "models").mkdir()
    return tiny_model.write_model(tmp_path / "models")


def opens_of_images(data: Path, *arguments: str | Path) -> Counter[int]:
    """Run a command, and count the images by how often their files were opened."""
    with counted_opens() as opens:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return Counter(opens[path] for path in data.parent.glob("*.png"))


def test_evaluate_opens_each_image_once_for_digest_every_pass_controls_and_gallery(
    data: Path, models: Path, tmp_path: Path
):
    common = ("--model", tiny_model.NAME, "--models-dir", models, "--device", "cpu", "--resamples", "100")
    command = ("evaluate", data, "--split", "all", "--out", tmp_path / "out", *common, "--without", "formats")
    assert opens_of_images(data, *command) == {1: 24}


def test_calibrate_opens_each_image_once(data: Path, models: Path):
    common = ("--model", tiny_model.NAME, "--models-dir", models, "--device", "cpu")
    command = ("calibrate", data, "--name", "once", "--youden", "--split", "all", *common)
    assert opens_of_images(data, *command) == {1: 24}
