"""The student learns, imitates its teacher, keeps its best state, and its statistics are not stale."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.tiny_training import PairsInMemory
from worker.model.cards.registry import ModelError
from worker.model.cards.schema import Inputs, StudentConfig
from worker.model.networks.student import Student, feature_layers
from worker.training.pairs.store import Batch
from worker.training.pretrained import Teacher, new_student, pretrained_layers
from worker.training.recipe import StudentOptions, StudentPlan, TeacherOptions
from worker.training.student_trainer import (
    DivergedError,
    StudentTrainer,
    joined,
    learning_rate,
    probabilities,
)

OPTIONS = StudentOptions(backbone="mobilenet_v3_small", input_size=32)
PLAN = StudentPlan(epochs=8, batch_size=16, seed=3)
TEACHER = TeacherOptions(weight=0.5, backbone="resnet18", sees="image", normalised=True)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def examples() -> PairsInMemory:
    """Fakes have brighter images; the noise maps of both classes are alike."""
    rng = np.random.default_rng(0)
    fake = torch.arange(60) % 2 == 0
    x = torch.from_numpy(rng.uniform(-0.4, 0.4, (60, 3, 16, 16))) + torch.where(fake, 0.5, -0.5)[:, None, None, None]
    eps = torch.from_numpy(rng.standard_normal((60, 3, 16, 16)))
    return PairsInMemory(x.half(), eps.half(), fake)


@pytest.fixture(scope="module")
def teacher_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's file as torchvision publishes one, with the layers after the feature map; weights are random."""
    torch.manual_seed(1)
    state = feature_layers("resnet18").state_dict() | {
        "fc.weight": torch.zeros(1000, 512),
        "fc.bias": torch.zeros(1000),
    }
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(state, path)
    return path


def trainer_of(examples: PairsInMemory, plan: StudentPlan = PLAN, teacher: Teacher | None = None) -> StudentTrainer:
    student = new_student(OPTIONS, plan.seed)
    return StudentTrainer.build(student, plan, examples, examples, fingerprint="x", teacher=teacher)


def changed(**fields: object) -> StudentPlan:
    return PLAN.model_copy(update=fields)


@pytest.fixture(scope="module")
def unsettled(examples: PairsInMemory) -> StudentTrainer:
    trainer = trainer_of(examples, changed(recalibrate=False))
    for step in range(trainer.steps):
        trainer.advance(step)
    return trainer


def test_recalibrated_it_tells_the_classes_apart_as_it_did_not_before(
    unsettled: StudentTrainer, examples: PairsInMemory
) -> None:
    fake = examples.fake.numpy()
    assert unsettled.history[-1]["validation_accuracy"] < 0.9
    unsettled.recalibrate()
    assert ((probabilities(unsettled.network.student.eval(), examples) >= 0.5) == fake).mean() > 0.95


def test_recalibration_sees_pairs_without_cutmix(examples: PairsInMemory) -> None:
    """They are what the student will judge."""
    statistics = []
    for probability in (0, 1):
        trainer = trainer_of(examples, changed(cutmix_probability=probability))
        trainer.recalibrate()
        statistics.append(torch.cat([value.flatten().double() for value in trainer.network.buffers()]))
    assert torch.equal(*statistics)


def test_recalibration_leaves_the_weights_alone(unsettled: StudentTrainer) -> None:
    before = {name: value.clone() for name, value in unsettled.network.named_parameters()}
    unsettled.recalibrate()
    assert all(torch.equal(value, before[name]) for name, value in unsettled.network.named_parameters())
    momenta = {layer.momentum for layer in unsettled.network.modules() if isinstance(layer, nn.BatchNorm2d)}
    assert momenta == {0.01}


@pytest.mark.parametrize(
    ("inputs", "reads_image", "reads_noise"),
    [("image+eps", True, True), ("image", True, False), ("eps", False, True), ("image+grey_eps", True, True)],
)
def test_a_student_reads_what_its_card_says(inputs: Inputs, reads_image: bool, reads_noise: bool) -> None:
    student = Student(StudentConfig(backbone="resnet18", inputs=inputs)).eval()
    x, eps, other = torch.rand(3, 1, 3, 32, 32).unbind()
    with torch.no_grad():
        logit = student(x, eps).logit
        assert torch.equal(student(other, eps).logit, logit) != reads_image
        assert torch.equal(student(x, other).logit, logit) != reads_noise
        colours = torch.tensor([0.1, -0.1, 0.0])[None, :, None, None]  # the mean over the channels stays
        assert torch.allclose(student(x, eps + colours).logit, logit, atol=1e-6) == (
            inputs in {"image", "image+grey_eps"}
        )


def test_state_and_restore_continue_exactly(examples: PairsInMemory) -> None:
    plan = changed(cutmix_probability=0.5)
    unbroken, first = (trainer_of(examples, plan) for _ in range(2))
    losses = [unbroken.advance(step) for step in range(6)]
    for step in range(2):
        first.advance(step)
    second = trainer_of(examples, plan)
    second.restore(first.state())
    assert [second.advance(step) for step in range(2, 6)] == losses[2:]
    assert second.history == unbroken.history


def test_what_training_gives_is_the_epoch_with_the_best_average_precision(
    examples: PairsInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([0.6, 0.9, 0.9, 0.7])
    monkeypatch.setattr("worker.training.student_trainer.average_precision", lambda *_: next(found))
    trainer = trainer_of(examples, changed(epochs=4, recalibrate=False))
    after: list[torch.Tensor] = []
    for step in range(trainer.steps):
        trainer.advance(step)
        if (step + 1) % trainer.steps_per_epoch == 0:
            after.append(trainer.network.student.state_dict()["student_head.2.weight"].clone())
    assert (trainer.best["epoch"], trainer.best["average_precision"]) == (2, 0.9)
    assert torch.equal(trainer.best_student().state_dict()["student_head.2.weight"], after[1])


def test_a_loss_that_is_no_number_ends_the_training(examples: PairsInMemory) -> None:
    broken = PairsInMemory(examples.x * math.nan, examples.eps, examples.fake)
    with pytest.raises(DivergedError, match=r"(?s)learning rate.*--pairs OLD_OUT"):
        trainer_of(broken).advance(0)


def test_a_student_that_answers_no_number_ends_the_training(examples: PairsInMemory) -> None:
    """Also where several processes share the validation, each of which knows its own pairs alone."""
    student = new_student(OPTIONS, 0).eval()
    next(student.student_head.parameters()).data.fill_(math.nan)
    with pytest.raises(DivergedError):
        probabilities(student, examples)
    assert np.array_equal(
        joined([np.array([0.0, math.nan]), np.array([1.0])]), np.array([0.0, 1.0, math.nan]), equal_nan=True
    )


def test_the_learning_rate_rises_and_falls() -> None:
    plan = changed(warmup_steps=4, learning_rate=1e-3)
    cosine, constant = (
        [learning_rate(plan.model_copy(update={"schedule": schedule}), step, steps=12) for step in range(12)]
        for schedule in ("cosine", "constant")
    )
    assert cosine[:4] == constant[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert constant[4:] == pytest.approx([1e-3] * 8)
    assert cosine[8] == pytest.approx(5e-4)
    assert cosine[-1] < 5e-5


def test_the_loss_is_cross_entropy_and_the_weighted_distance_to_the_teacher(
    examples: PairsInMemory, teacher_weights: Path
) -> None:
    teacher = Teacher(TEACHER.model_copy(update={"weights": teacher_weights}), 32)
    trainer = trainer_of(examples, changed(pos_weight=3.0), teacher)
    batch = examples.load(np.arange(8))
    loss, classification, distillation = trainer.losses(batch)
    logit, feature = trainer.network(batch.x, batch.eps)
    weights = torch.where(batch.fake == 1, 3.0, 1.0)
    expected = (weights * nn.functional.softplus(torch.where(batch.fake == 1, -logit, logit))).mean()
    assert classification.item() == pytest.approx(expected.item(), rel=1e-5)
    assert distillation.item() == pytest.approx((feature - teacher(batch)).square().mean().item(), rel=1e-5)
    assert loss.item() == pytest.approx(classification.item() + 0.5 * distillation.item(), rel=1e-5)


def test_the_student_comes_closer_to_its_teacher_which_stays_as_it_is(
    examples: PairsInMemory, teacher_weights: Path
) -> None:
    teacher = Teacher(TEACHER.model_copy(update={"weights": teacher_weights}), 32)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    trainer = trainer_of(examples, changed(recalibrate=False, epochs=6), teacher)
    assert trainer.network.state_dict()["projection.weight"].shape == (512, 576, 1, 1)
    for step in range(trainer.steps):
        trainer.advance(step)
    assert trainer.history[-1]["distillation"] < 0.5 * trainer.history[0]["distillation"]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert set(trainer.best_student().state_dict()) == set(Student(OPTIONS).state_dict())


@pytest.mark.parametrize("sees", ["image", "dire"])
@pytest.mark.parametrize("normalised", [False, True])
def test_the_teacher_is_shown_what_the_recipe_says(sees: str, normalised: bool, teacher_weights: Path) -> None:
    options = TEACHER.model_copy(update={"weights": teacher_weights, "sees": sees, "normalised": normalised})
    teacher = Teacher(options, input_size=None)
    shown: list[torch.Tensor] = []
    teacher.layers.register_forward_pre_hook(lambda _layer, given: shown.append(given[0]))
    x, dire = torch.full((1, 3, 32, 32), 0.2), torch.full((1, 3, 32, 32), -0.4)
    teacher(Batch(x, x, dire, torch.ones(1)))
    value = 0.2 if sees == "image" else -0.4
    red = ((value + 1) / 2 - 0.485) / 0.229 if normalised else value
    assert shown[0][0, 0].mean().item() == pytest.approx(red, rel=1e-5)


@pytest.mark.parametrize("inputs", ["image+eps", "eps", "image", "image+grey_eps"])
def test_a_student_may_start_from_weights_of_torchvision(inputs: Inputs, teacher_weights: Path) -> None:
    image = feature_layers("resnet18")
    image.load_state_dict({k: v for k, v in torch.load(teacher_weights).items() if not k.startswith("fc")})
    conv1 = dict(image.named_parameters())["conv1.weight"]

    def first_layer(noise_channels: str) -> torch.Tensor:
        options = StudentOptions(backbone="resnet18", inputs=inputs, weights=teacher_weights)
        student = new_student(options.model_copy(update={"noise_channels": noise_channels}), seed=2)
        state: dict[str, torch.Tensor] = student.student_backbone.state_dict()
        assert torch.equal(state["layer4.1.conv2.weight"], image.state_dict()["layer4.1.conv2.weight"])
        return state["conv1.weight"]

    random, pretrained = first_layer("random"), first_layer("pretrained")
    channels = 0 if inputs == "eps" else 3
    assert torch.equal(random[:, :channels], conv1[:, :channels])
    assert torch.equal(pretrained[:, :channels], conv1[:, :channels])
    if inputs != "image":
        noise = conv1.sum(dim=1, keepdim=True) if inputs == "image+grey_eps" else conv1
        assert torch.equal(pretrained[:, channels:], noise)
        assert not torch.equal(random[:, channels:], noise)


def test_weights_from_before_batches_were_counted_are_taken(teacher_weights: Path, tmp_path: Path) -> None:
    state = torch.load(teacher_weights)
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    layers = pretrained_layers("teacher", "resnet18", tmp_path / "old.pth")
    assert torch.equal(layers.state_dict()["bn1.running_var"], state["bn1.running_var"])
    torch.save({name: value for name, value in old.items() if name != "bn1.running_var"}, tmp_path / "spoilt.pth")
    with pytest.raises(ModelError, match=r"of torchvision's resnet18: bn1\.running_var is missing.*in \[teacher\]"):
        pretrained_layers("teacher", "resnet18", tmp_path / "spoilt.pth")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_keeps_weights_in_float32(examples: PairsInMemory, precision: str) -> None:
    trainer = trainer_of(examples, changed(precision=precision, epochs=1, recalibrate=False))
    losses = [trainer.advance(step) for step in range(trainer.steps)]
    assert all(math.isfinite(loss) for loss in losses)
    assert all(value.dtype == torch.float32 for value in trainer.network.parameters())


@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v3_large", "efficientnet_b0"])
def test_backbones_of_torchvision_can_be_trained(backbone: str, examples: PairsInMemory) -> None:
    plan = changed(batch_size=4, recalibrate=False)
    student = new_student(OPTIONS.model_copy(update={"backbone": backbone}), seed=0)
    trainer = StudentTrainer.build(student, plan, examples, examples, fingerprint="x")
    before = student.state_dict()["student_head.2.weight"].clone()
    assert math.isfinite(trainer.advance(0))
    assert not torch.equal(student.state_dict()["student_head.2.weight"], before)
    trainer.close()
