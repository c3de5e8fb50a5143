"""Two processes that train together compute what one does with the whole batch.

In float64: in float32 an activation that is zero but for rounding may pass a ReLU in one case and not in the other,
which changes gradients by a thousandth.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.tiny_training import PairsInMemory
from worker.model.networks.student import feature_layers
from worker.training.loop.distributed import ProcessGroup, joined_process_group
from worker.training.pairs.store import Batch
from worker.training.pretrained import Teacher, new_student
from worker.training.recipe import StudentOptions, StudentPlan, TeacherOptions
from worker.training.student_trainer import Setting, StudentTrainer, probabilities

pytestmark = pytest.mark.slow

PLAN = StudentPlan(epochs=1, batch_size=8, cutmix_probability=1, seed=4, learning_rate=1e-3)


class Wide(PairsInMemory):
    """In float64."""

    def load(self, index: NDArray[np.int64]) -> Batch:
        return Batch(self.x[index], self.eps[index], None, self.fake[index].double())


def trained(processes: ProcessGroup, teacher_weights: Path) -> dict[str, torch.Tensor]:
    """Do two steps and an epoch's end, and return all that came of it; gradients are those of the first step."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    fake = torch.arange(16) % 2 == 0
    x, eps = torch.from_numpy(rng.standard_normal((2, 16, 3, 32, 32)))
    examples = Wide(x + fake[:, None, None, None], eps, fake)
    student = new_student(StudentOptions(backbone="resnet18", input_size=32), seed=4)
    options = TeacherOptions(
        weight=0.5, backbone="mobilenet_v3_small", weights=teacher_weights, sees="image", normalised=True
    )
    setting = Setting(processes=processes)
    teacher = Teacher(options, 32)
    trainer = StudentTrainer.build(student, PLAN, examples, examples, fingerprint="x", teacher=teacher, setting=setting)
    loss = trainer.advance(0)
    found = {f"gradient.{name}": value.grad.clone() for name, value in trainer.network.named_parameters()}  # type: ignore[union-attr]
    trainer.advance(1)
    found["loss"] = torch.tensor(loss)
    found |= {f"statistics.{name}": value.clone() for name, value in trainer.network.named_buffers()}
    found["probabilities"] = torch.from_numpy(probabilities(trainer.network.student.eval(), examples, setting))
    return found


def _child(rank: int, port: int, teacher_weights: Path, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined_process_group("cpu") as processes:
        torch.set_default_dtype(torch.float64)
        found = trained(processes, teacher_weights)
        assert processes.gather(rank) == [0, 1]
        assert processes.from_main(lambda: rank) == 0
    torch.save(found, out / f"{rank}.pt")


@pytest.fixture(scope="module")
def alone_and_together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """What one process finds, and what each of two does."""
    out = tmp_path_factory.mktemp("processes")
    torch.manual_seed(1)
    weights = out / "teacher.pth"
    torch.save(feature_layers("mobilenet_v3_small").state_dict(), weights)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_child, args=(rank, port, weights, out)) for rank in range(2)]
    for child in children:
        child.start()
    torch.set_default_dtype(torch.float64)
    try:
        alone = trained(ProcessGroup(), weights)
    finally:
        torch.set_default_dtype(torch.float32)
    for child in children:
        child.join(240)
    assert [child.exitcode for child in children] == [0, 0]
    return [alone, *(torch.load(out / f"{rank}.pt") for rank in range(2))]


def test_gradients_are_those_of_one_process_with_the_doubled_batch(
    alone_and_together: list[dict[str, torch.Tensor]],
) -> None:
    alone, first, second = alone_and_together
    names = [name for name in alone if name.startswith("gradient.")]
    assert len(names) == 64  # ResNet-18's 60, the head's 2 and the projection's 2
    for name in names:
        assert torch.equal(first[name], second[name]), name
        assert (first[name] - alone[name]).norm() <= 1e-5 * alone[name].norm(), name


def test_statistics_of_batch_normalisation_and_probabilities_are_as_well(
    alone_and_together: list[dict[str, torch.Tensor]],
) -> None:
    alone, first, second = alone_and_together
    for name in [name for name in alone if not name.startswith("gradient.")]:
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name].double(), alone[name].double(), rtol=1e-5, atol=1e-7), name


def test_without_torchrun_a_process_is_alone() -> None:
    with joined_process_group("cpu") as processes:
        assert (processes.rank, processes.size, processes.is_main) == (0, 1, True)
        assert processes.gather("x") == ["x"]
        assert processes.from_main(lambda: "x") == "x"
