"""The student learns, uses what it may look at, and its statistics are not stale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from worker.model.config import StudentConfig
from worker.training.examples import Examples
from worker.training.student import StudentPlan, StudentTrainer, inputs, probabilities

CONFIG = StudentConfig(backbone="mobilenet_v3_small", input_size=32)
PLAN = StudentPlan(steps=24, batch_size=16, seed=3)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def examples() -> Examples:
    """Fakes have brighter images; the noise maps of both classes are alike."""
    rng = np.random.default_rng(0)
    fake = torch.arange(60) % 2 == 0
    x = torch.from_numpy(rng.uniform(-0.4, 0.4, (60, 3, 16, 16))) + torch.where(fake, 0.5, -0.5)[:, None, None, None]
    eps = torch.from_numpy(rng.standard_normal((60, 3, 16, 16)))
    return Examples(x.half(), eps.half(), fake, np.where(fake.numpy(), "sample", "photograph"))


@pytest.fixture(scope="module")
def trainer(examples: Examples) -> StudentTrainer:
    trainer = StudentTrainer(CONFIG, examples, PLAN)
    for step in range(PLAN.steps):
        trainer.advance(step)
    return trainer


def test_recalibrated_it_tells_the_classes_apart_as_it_did_not_before(
    trainer: StudentTrainer, examples: Examples
) -> None:
    stale = probabilities(trainer.student.eval(), examples)
    fresh = probabilities(trainer.recalibrate(), examples)
    fake = examples.fake.numpy()
    assert ((stale >= 0.5) == fake).mean() < 0.9
    assert ((fresh >= 0.5) == fake).mean() > 0.95


def test_recalibration_leaves_the_weights_alone(trainer: StudentTrainer) -> None:
    before = {name: value.clone() for name, value in trainer.student.named_parameters()}
    trainer.recalibrate()
    assert all(torch.equal(value, before[name]) for name, value in trainer.student.named_parameters())
    momenta = {layer.momentum for layer in trainer.student.modules() if isinstance(layer, nn.BatchNorm2d)}
    assert momenta == {0.01}


def test_a_control_sees_nothing_of_the_other_half(examples: Examples) -> None:
    x, eps = inputs(examples, slice(0, 4), "rgb")
    assert x.abs().sum() > 0
    assert eps.abs().sum() == 0
    x, eps = inputs(examples, slice(0, 4), "eps")
    assert x.abs().sum() == 0
    assert eps.abs().sum() > 0


def test_a_batch_holds_as_many_photographs_as_fakes(examples: Examples) -> None:
    few_fakes = Examples(examples.x, examples.eps, torch.arange(60) < 3, examples.kinds)
    drawn = StudentTrainer(CONFIG, few_fakes, PLAN)._draw(0)
    assert few_fakes.fake[drawn].sum() == len(drawn) // 2


def test_state_and_restore_continue_exactly(examples: Examples) -> None:
    unbroken, first = (StudentTrainer(CONFIG, examples, PLAN) for _ in range(2))
    losses = [unbroken.advance(step) for step in range(4)]
    for step in range(2):
        first.advance(step)
    second = StudentTrainer(CONFIG, examples, PLAN)
    second.restore(first.state())
    assert [second.advance(step) for step in (2, 3)] == losses[2:]
