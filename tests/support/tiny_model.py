"""A model card with seeded random weights: loads in a moment and runs in milliseconds; its verdicts mean nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from deploy.bench.seeded_weights import seeded_state
from worker.model.cards.schema import StudentConfig, UnetConfig
from worker.model.networks.student import Student
from worker.model.networks.unet import AdmUnet

NAME = "TEST-MODEL"
SIZE = 32

_CARD = f"""
name = "{NAME}"
license = "CC0-1.0"
image_size = {SIZE}
threshold = 0.5
demonstration = true

[adm]
weights = "adm.safetensors"
num_channels = 32
num_res_blocks = 1
channel_mult = [1, 2]
num_head_channels = 16

[student]
backbone = "mobilenet_v3_small"
input_size = 64
weights = "student.safetensors"
"""


def write_model(folder: Path) -> Path:
    """Write card and weights into `folder`; return it, to be DISTILDIRE_MODELS_DIR."""
    unet = UnetConfig(num_channels=32, num_res_blocks=1, channel_mult=(1, 2), num_head_channels=16)
    with torch.device("meta"):
        networks = {"adm": AdmUnet(unet, SIZE), "student": Student(StudentConfig(backbone="mobilenet_v3_small"))}
    for name, network in networks.items():
        save_file(seeded_state(_shapes(network), seed=11), folder / f"{name}.safetensors")
    (folder / "card.toml").write_text(_CARD)
    return folder


def _shapes(network: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
