"""Cards that an operator writes for other networks: data alone, from the file to a verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from deploy.bench.seeded_weights import seeded_state
from worker.model import load_model, verify
from worker.model.cards.registry import read_card
from worker.model.networks.student import Student
from worker.model.networks.unet import AdmUnet

_HEAD = """
name = "BY-HAND"
license = "CC0-1.0"
threshold = 0.7
image_size = {image_size}

[adm]
weights = "adm.pt"
num_channels = 32
{adm}

[student]
weights = "student.pth"
{student}
"""
CARDS = {
    "heads by number, convolutions that resample, no scale-shift": _HEAD.format(
        image_size=64,
        adm="num_res_blocks = 1\nchannel_mult = [1, 2]\nattention_resolutions = [32]\nnum_heads = 4\n"
        "resblock_updown = false\nuse_scale_shift_norm = false",
        student='backbone = "resnet18"\ninput_size = 96',
    ),
    "ADM's own multiples at 128 pixels": _HEAD.format(
        image_size=128,
        adm="num_res_blocks = 1\nchannel_mult = [1, 1, 2, 3, 4]\nattention_resolutions = [32, 16, 8]\n"
        "num_head_channels = 32",
        student='backbone = "efficientnet_b0"',
    ),
    "two blocks, no variances, another spacing, eps as it comes": _HEAD.format(
        image_size=32,
        adm="num_res_blocks = 2\nchannel_mult = [1, 1]\nnum_head_channels = 16\nlearn_sigma = false",
        student='backbone = "mobilenet_v3_small"\ninput_size = 128\n\n'
        '[diffusion]\nsteps = 4000\ntimestep_respacing = "ddim50"\nclip_denoised = false',
    ),
}


def _seeded(network: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    return seeded_state(shapes, seed)


@pytest.fixture(params=CARDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A models folder as an operator fills it: a card and two files in the published form."""
    (tmp_path / "card.toml").write_text(CARDS[request.param])
    card = read_card(tmp_path / "card.toml")
    with torch.device("meta"):
        unet, student = AdmUnet(card.adm, card.image_size), Student(card.student)
    torch.save(_seeded(unet, 1), tmp_path / "adm.pt")
    wrapped = {f"module.{name}": tensor for name, tensor in _seeded(student, 2).items()}
    torch.save({"model": wrapped, "optimizer": {}}, tmp_path / "student.pth")
    return tmp_path


def test_a_card_alone_makes_a_model(folder: Path):
    rows, columns = np.mgrid[:150, :200]
    pixels = np.stack([rows, columns, 255 - rows // 2], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")

    verify("BY-HAND", folder)
    model = load_model("BY-HAND", device="cpu", precision="fp32", models_dir=folder)
    result = model.analyze(folder / "photo.png")

    side = model.card.image_size
    assert result["dimensions"] == {"width": 200, "height": 150}
    assert (len(result["heatmap_scores"]), len(result["heatmap_scores"][0])) == (150, 200)
    x = model.preprocess(Image.open(folder / "photo.png"))[None]
    assert x.shape == (1, 3, side, side)
    eps = model.noise_map(x)
    assert eps.std() > 0
    assert model.reconstruct(x).shape == x.shape
    probability = torch.sigmoid(model.classify(x, eps).logit).item()
    assert result["prediction"] == ("FAKE" if probability >= 0.7 else "REAL")
