"""Reference outputs, and small models whose weights come from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from deploy.bench.seeded_weights import seeded_state
from tests.support.reference import Measure, Reference
from worker.model.cards.schema import StudentConfig
from worker.model.networks.student import Student
from worker.model.networks.unet import AdmUnet


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="session")
def tiny_unet(reference: Reference) -> AdmUnet:
    """The 4.5 M ADM at 64 pixels, in float32."""
    unet = AdmUnet(reference.tiny_config(), image_size=64)
    unet.load_state_dict(reference.state("adm_tiny64", 101))
    return unet.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="session")
def relative_error() -> Measure:
    """‖a − b‖ / ‖b‖ in float64."""

    def measure(ours: Tensor, golden: NDArray[np.float32]) -> float:
        expected = torch.from_numpy(golden).double()
        return float((ours.double() - expected).norm() / expected.norm())

    return measure


TINY_CARD = """
name = "TINY"
license = "CC0-1.0"
image_size = 64

[adm]
weights = "tiny-adm.safetensors"
num_channels = 32
num_res_blocks = 1
channel_mult = [1, 2, 3, 4]
attention_resolutions = [16, 8]
num_head_channels = 16

[student]
backbone = "mobilenet_v3_small"
input_size = 96
weights = "tiny-student.pth"
"""


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory, reference: Reference) -> Path:
    """A models folder with a card of another ADM and another student than the published; do not change it."""
    folder = tmp_path_factory.mktemp("tiny-model")
    (folder / "tiny.toml").write_text(TINY_CARD)
    save_file(reference.state("adm_tiny64", 101), folder / "tiny-adm.safetensors")
    with torch.device("meta"):
        student = Student(StudentConfig(backbone="mobilenet_v3_small"))
    shapes = {name: list(tensor.shape) for name, tensor in student.state_dict().items()}
    state = {f"module.{name}": tensor for name, tensor in seeded_state(shapes, 7).items()}
    torch.save({"model": state, "optimizer": {}}, folder / "tiny-student.pth")
    return folder
