"""Fakes of every kind, the history that both classes' files share, and the examples made of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from tests.tiny_training import TINY_SIZE, TINY_UNET, smooth_picture
from worker.model.config import DiffusionConfig
from worker.model.diffusion import SpacedDiffusion
from worker.model.unet import AdmUnet
from worker.training.examples import make_examples
from worker.training.fakes import (
    SDEDIT_STARTS,
    Faker,
    PictureCounts,
    Pictures,
    make_pictures,
    to_pixels,
    to_unit,
)
from worker.training.file_history import seen_by_service
from worker.training.photographs import Pixels, random_crops

COUNTS = PictureCounts(photographs=8, samples=3, sdedits=6, reconstructions=2)


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
def made(unet: AdmUnet, diffusion: SpacedDiffusion, pictures: list[Pixels]) -> Pictures:
    return make_pictures(Faker(unet, diffusion, TINY_SIZE), pictures, COUNTS, seed=1)


def test_every_kind_is_made_in_the_wanted_number(made: Pictures) -> None:
    assert Counter(made.kinds.tolist()) == {"photograph": 8, "sample": 3, "sdedit": 6, "reconstruction": 2}
    assert made.pixels.shape == (19, TINY_SIZE, TINY_SIZE, 3)
    assert made.pixels.dtype == np.uint8


def test_the_seed_decides_the_pictures(
    made: Pictures, unet: AdmUnet, diffusion: SpacedDiffusion, pictures: list[Pixels]
) -> None:
    again = make_pictures(Faker(unet, diffusion, TINY_SIZE), pictures, COUNTS, seed=1)
    assert np.array_equal(made.pixels, again.pixels)


def test_sdedit_departs_from_the_photograph_with_its_strength(
    unet: AdmUnet, diffusion: SpacedDiffusion, pictures: list[Pixels]
) -> None:
    photographs = random_crops(pictures, 8, TINY_SIZE, np.random.default_rng(0))
    faker = Faker(unet, diffusion, TINY_SIZE)
    distances = [
        np.abs(faker.sdedit(photographs, start, np.random.default_rng(1)).astype(int) - photographs).mean()
        for start in SDEDIT_STARTS
    ]
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_sdedit_denoises_from_its_step_down(diffusion: SpacedDiffusion, pictures: list[Pixels]) -> None:
    asked: list[int] = []

    def unet(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(int(t[0]))
        return torch.zeros_like(x)

    photographs = random_crops(pictures, 2, TINY_SIZE, np.random.default_rng(0))
    Faker(unet, diffusion, TINY_SIZE).sdedit(photographs, 2, np.random.default_rng(1))
    assert asked == [100, 50, 0]


def test_a_reconstruction_is_the_diffusions_own(
    unet: AdmUnet, diffusion: SpacedDiffusion, pictures: list[Pixels]
) -> None:
    photographs = random_crops(pictures, 2, TINY_SIZE, np.random.default_rng(0))
    expected = to_pixels(diffusion.reconstruct(unet, to_unit(photographs)))
    assert np.array_equal(Faker(unet, diffusion, TINY_SIZE).reconstruct(photographs), expected)


def test_pixels_survive_the_way_to_tensors_and_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(to_pixels(to_unit(pixels)), pixels)


def test_some_files_leave_a_picture_as_it_is_and_some_do_not() -> None:
    picture = smooth_picture(3, TINY_SIZE, TINY_SIZE)
    rng = np.random.default_rng(0)
    seen = [seen_by_service(picture, rng) for _ in range(40)]
    untouched = to_unit(picture[None])[0].numpy()
    exact = sum(np.abs(one - untouched).max() < 1e-5 for one in seen)
    assert 5 <= exact <= 25
    assert all(one.shape == (3, TINY_SIZE, TINY_SIZE) and np.abs(one - untouched).mean() < 0.2 for one in seen)


def test_the_noise_of_an_example_is_that_of_the_file_not_of_the_picture(
    made: Pictures, unet: AdmUnet, diffusion: SpacedDiffusion
) -> None:
    examples = make_examples(made, [unet], diffusion, copies=2, seed=4)
    assert len(examples) == 2 * len(made.kinds)
    assert torch.equal(examples.fake, torch.from_numpy(examples.kinds != "photograph"))
    again = diffusion.first_step_eps(unet, examples.x.float())
    assert (again - examples.eps.float()).abs().mean() < 0.05 * examples.eps.float().abs().mean()


def test_every_copy_of_a_picture_has_a_history_of_its_own(
    made: Pictures, unet: AdmUnet, diffusion: SpacedDiffusion
) -> None:
    one = Pictures(made.pixels[:1], made.kinds[:1])
    examples = make_examples(one, [unet], diffusion, copies=20, seed=4)
    assert len({row.numpy().tobytes() for row in examples.x}) > 5
    assert examples.x.abs().max() <= 1
