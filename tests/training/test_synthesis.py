"""Fakes of every kind, and the history that both classes' files share."""

from __future__ import annotations

import io
import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.tiny_training import TINY_SIZE, TINY_UNET, smooth_picture
from worker.model.cards.schema import DiffusionConfig
from worker.model.diffusion import SpacedDiffusion
from worker.model.networks.unet import AdmUnet
from worker.training.demonstration.encoding_history import saved
from worker.training.demonstration.photographs import Pixels, random_crops, to_pixels, to_unit
from worker.training.demonstration.synthesis import Faker


@pytest.fixture(scope="module")
def unet() -> AdmUnet:
    """Fresh, but for a last layer that is not zero: it changes what it is shown."""
    torch.manual_seed(0)
    unet = AdmUnet(TINY_UNET, TINY_SIZE)
    last = dict(unet.named_parameters())["out.2.weight"]
    torch.nn.init.normal_(last, std=0.02)
    return unet.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def diffusion() -> SpacedDiffusion:
    return SpacedDiffusion(DiffusionConfig())


@pytest.fixture(scope="module")
def crops(pictures: list[Pixels]) -> Pixels:
    return random_crops(pictures, 4, TINY_SIZE, np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["sampled", "reconstruction", "sdedit-200", "ancestral-200"])
def test_the_generator_decides_a_fake(kind: str, unet: AdmUnet, diffusion: SpacedDiffusion, crops: Pixels) -> None:
    faker = Faker(unet, diffusion, TINY_SIZE)
    made, again = (faker.make(kind, crops, np.random.default_rng(1)) for _ in range(2))
    assert made.shape == crops.shape
    assert made.dtype == np.uint8
    assert np.array_equal(made, again)
    assert not np.array_equal(made, crops)


@pytest.mark.parametrize("name", ["sdedit", "ancestral"])
def test_an_edit_departs_from_the_photograph_with_its_strength(
    name: str, unet: AdmUnet, diffusion: SpacedDiffusion, crops: Pixels
) -> None:
    faker = Faker(unet, diffusion, TINY_SIZE)
    distances = [
        np.abs(faker.make(f"{name}-{step}", crops, np.random.default_rng(1)).astype(int) - crops).mean()
        for step in (50, 100, 200, 300, 450, 600)
    ]
    assert distances == sorted(distances)
    assert distances[0] > 0


@pytest.mark.parametrize("kind", ["sdedit-100", "ancestral-100"])
def test_an_edit_denoises_from_its_step_down(kind: str, diffusion: SpacedDiffusion, crops: Pixels) -> None:
    asked: list[int] = []

    def unet(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(int(t[0]))
        return torch.zeros_like(x)

    Faker(unet, diffusion, TINY_SIZE).make(kind, crops, np.random.default_rng(1))
    assert asked == [100, 50, 0]


def test_the_ancestral_sampler_takes_ddpms_steps(diffusion: SpacedDiffusion, crops: Pixels) -> None:
    """Mean and variance of q(x_{t-1} | x_t, x_0): DDPM, equation 7, with the betas of the kept steps."""
    rng = np.random.default_rng(2)
    true = torch.from_numpy(rng.standard_normal((4, 3, TINY_SIZE, TINY_SIZE))).float()

    def unet(x: torch.Tensor, _t: torch.Tensor) -> torch.Tensor:
        return true

    alpha_bar, before = diffusion.alpha_bars[1], diffusion.alpha_bars[0]
    x1 = math.sqrt(alpha_bar) * to_unit(crops) * 0.5 + math.sqrt(1 - alpha_bar) * true  # away from the bounds of x0
    beta = 1 - alpha_bar / before
    mean = math.sqrt(before) * beta / (1 - alpha_bar) * to_unit(crops) * 0.5
    mean = mean + math.sqrt(1 - beta) * (1 - before) / (1 - alpha_bar) * x1
    noise = torch.from_numpy(np.random.default_rng(3).standard_normal(x1.shape, dtype=np.float32))
    x0 = mean + math.sqrt(beta * (1 - before) / (1 - alpha_bar)) * noise
    x0, _ = diffusion.predict(unet, x0, 0)
    found = Faker(unet, diffusion, TINY_SIZE)._ancestral(x1, 1, np.random.default_rng(3))
    assert torch.allclose(found, x0, atol=1e-4)


def test_a_reconstruction_is_the_diffusions_own(unet: AdmUnet, diffusion: SpacedDiffusion, crops: Pixels) -> None:
    expected = to_pixels(diffusion.reconstruct(unet, to_unit(crops)))
    assert np.array_equal(Faker(unet, diffusion, TINY_SIZE).reconstruct(crops), expected)


def test_pixels_survive_the_way_to_tensors_and_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(to_pixels(to_unit(pixels)), pixels)


def test_files_have_histories_of_all_kinds() -> None:
    picture = smooth_picture(3, TINY_SIZE, TINY_SIZE)
    files = [saved(picture, np.random.default_rng(seed)) for seed in range(200)]
    images = [Image.open(io.BytesIO(file.content)) for file in files]
    formats = Counter(image.format for image in images)
    assert {name: count / 200 for name, count in formats.items()} == pytest.approx(
        {"PNG": 0.5, "JPEG": 0.3, "WEBP": 0.2}, abs=0.1
    )
    assert all(file.suffix == f".{str(image.format).lower()}" for file, image in zip(files, images, strict=True))
    enlarged = [image.width for image in images if image.width != TINY_SIZE]
    assert 40 <= len(enlarged) <= 80
    assert min(enlarged) > TINY_SIZE
    assert max(enlarged) <= 4 * TINY_SIZE


def test_a_history_does_not_depend_on_the_picture() -> None:
    """Else the files of one class could differ from those of the other."""
    for seed in range(20):
        one, other = (saved(smooth_picture(name, 16, 16), np.random.default_rng(seed)) for name in (1, 2))
        assert one.suffix == other.suffix
        assert Image.open(io.BytesIO(one.content)).size == Image.open(io.BytesIO(other.content)).size
