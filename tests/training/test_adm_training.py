"""What an ADM is shown, and that it learns from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support.tiny_training import TINY_PLAN, TINY_SIZE, TINY_UNET
from worker.training.demonstration.adm_trainer import LOW_STEPS, AdmTrainer
from worker.training.demonstration.photographs import Pixels


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_half_of_every_batch_is_noised_only_slightly(pictures: list[Pixels]) -> None:
    trainer = AdmTrainer.build(TINY_UNET, TINY_SIZE, pictures, replace(TINY_PLAN, batch_size=200))
    x, t, noise = trainer.draw(0)
    assert x.shape == noise.shape == (200, 3, TINY_SIZE, TINY_SIZE)
    assert -1 <= x.min() < -0.5 < 0.5 < x.max() <= 1
    assert int(t[:100].max()) < LOW_STEPS
    assert int(t[100:].max()) > 800
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_the_error_falls_and_the_average_follows(pictures: list[Pixels]) -> None:
    plan = replace(TINY_PLAN, steps=80, decay_steps=80, batch_size=16, learning_rate=2e-3)
    trainer = AdmTrainer.build(TINY_UNET, TINY_SIZE, pictures[:1], plan)
    losses = [trainer.advance(step) for step in range(plan.steps)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    weights, average = trainer.unet.state_dict()["out.2.weight"], trainer.average["out.2.weight"]
    assert not torch.equal(weights, average)
    assert torch.nn.functional.cosine_similarity(weights.flatten(), average.flatten(), dim=0) > 0.8
