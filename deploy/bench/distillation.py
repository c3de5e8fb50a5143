"""Measures what distillation gains on your own images: students with and without a teacher, over several seeds.

All students of a seed train for the same number of steps, from the same initial weights and on the same batches. All
share one folder of pairs, so each noise map and DIRE image is computed once, also for the test split. A complete run
leaves its outcome in a file, and the same command continues from there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from deploy.bench.model import seconds_taken
from shared.errors import DistildireError
from worker.atomic_files import write_whole
from worker.datasets.dataset import DatasetError
from worker.metrics.ranking import Floats, average_precision, roc_auc
from worker.model.cards.schema import StudentConfig
from worker.model.networks.student import Student
from worker.training.loop.distributed import ProcessGroup
from worker.training.pairs.store import PairStore
from worker.training.pipeline import Training, prepare
from worker.training.recipe import Recipe, changed
from worker.training.request import TrainingRequest
from worker.training.student_trainer import Setting, probabilities

log = logging.getLogger(__name__)

LAMBDAS = (0.1, 0.5, 1.0)
"""The values of λ, the weight of the teacher's part of the loss, that are compared."""

BACKBONES = ("resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_b0")

RECIPE = Path(__file__).with_suffix(".toml")
"""The recipe that all students share, unless another is named."""

_STUDENT = "STUDENT"
_ROUNDS = 31


class ExperimentError(DistildireError):
    """The experiment cannot continue."""


@dataclass(frozen=True)
class Arm:
    """One variant of the experiment: a backbone, λ (0 for no teacher), and what the teacher sees."""

    backbone: str
    weight: float = 0.0
    sees: Literal["image", "dire"] = "image"

    @property
    def name(self) -> str:
        """The arm's name, for people and for folders."""
        return f"{self.backbone}-{self.sees}-{self.weight:g}" if self.weight else self.backbone

    def recipe(self, base: Recipe, seed: int) -> Recipe:
        """Return the recipe with this arm's options and the training's seed."""
        recipe = changed(base, "teacher", weight=self.weight, sees=self.sees)
        return changed(changed(recipe, "student", backbone=self.backbone), "training", seed=seed)


def distilled(backbone: str, lambdas: Sequence[float] = LAMBDAS) -> list[Arm]:
    """Return the arm without a teacher, and the arms whose teacher sees the image or the DIRE image."""
    sights: tuple[Literal["image", "dire"], ...] = ("image", "dire")
    return [Arm(backbone), *(Arm(backbone, weight, sees) for sees in sights for weight in lambdas)]


@dataclass(frozen=True)
class Experiment:
    """The arms to compare, and their data. `recipe`: shared by all students. Other fields: see `TrainingRequest`."""

    data: Path
    adm: str
    out: Path
    recipe: Recipe
    arms: Sequence[Arm]
    seeds: int
    models_dir: Path | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Outcome:
    """The results of one trained student on the test split.

    `probabilities` (N,): of being fake, in the data set's order. `steps`: of the optimizer. `epoch`: the best epoch on
    the validation split, whose student was scored.
    """

    arm: Arm
    seed: int
    probabilities: Floats
    average_precision: float
    roc_auc: float
    steps: int
    epoch: int
    seconds: float


class Run:
    """One student of an experiment, from its request to its outcome."""

    def __init__(self, experiment: Experiment, arm: Arm, seed: int) -> None:
        self.arm, self.seed = arm, seed
        self.folder = experiment.out / "runs" / f"{arm.name}-seed-{seed}"
        request = TrainingRequest(
            data=experiment.data,
            adm=experiment.adm,
            out=self.folder,
            pairs=experiment.out / "pairs",
            name=_STUDENT,
            license="unstated",
            recipe=arm.recipe(experiment.recipe, seed),
            models_dir=experiment.models_dir,
            device=experiment.device,
        )
        self.training = prepare(request, ProcessGroup())
        self.test = held_out_pairs(self.training)
        self._identity = f"{self.training.fingerprint}, test={self.test.identity}"
        self._file = self.folder / "outcome.json"

    def outcome(self) -> Outcome:
        """Return the outcome; train the student first, unless an earlier call of the command did.

        Raises:
            ExperimentError: the earlier call had other settings.
        """
        if not self._file.exists():
            self._train()
        found: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        if found.pop("identity") != self._identity:
            raise ExperimentError(
                f"{self._file} was made with other images, another model or another recipe. Name another --out."
            )
        scores = np.array(found.pop("probabilities"))
        fake = self.test.labels
        return Outcome(self.arm, self.seed, scores, average_precision(scores, fake), roc_auc(scores, fake), **found)

    def _train(self) -> None:
        training = self.training
        with training.stopwatch.timed("pairs"):
            training.make_pairs(self.test)
        with training.stopwatch.timed("student"):
            trainer = training.train_student()
        scores = probabilities(trainer.best_student(), self.test, Setting(training.adm.device))
        told = {
            "identity": self._identity,
            "probabilities": scores.tolist(),
            "steps": trainer.steps,
            "epoch": trainer.best["epoch"],
            "seconds": training.stopwatch.seconds()["student"],
        }
        write_whole(self._file, json.dumps(told).encode())
        training.checkpoint.unlink()  # as large as four students


def held_out_pairs(training: Training) -> PairStore:
    """Return the pairs of the test split, made without augmentation like those of the validation split.

    Raises:
        DatasetError: the split lacks a class.
    """
    images = training.dataset.of("test")
    if len({image.fake for image in images}) < 2:
        raise DatasetError(training.request.data, ["the split test needs real images and fakes: add what is missing"])
    validation = training.validation
    return PairStore(training.request.pairs, validation.key, images, 1, reads_dire=validation.reads_dire)


def outcomes(experiment: Experiment) -> Iterator[Outcome]:
    """Run the experiment, all arms of a seed before the next seed, and yield the outcomes.

    Raises:
        DistildireError: something is wrong; if possible, this is found before the first run.
    """
    for arm in experiment.arms:
        Run(experiment, arm, seed=0)  # finds mistakes in any arm before the first hours of training
    total = experiment.seeds * len(experiment.arms)
    for seed in range(experiment.seeds):
        for number, arm in enumerate(experiment.arms, start=1 + seed * len(experiment.arms)):
            log.info("run %d of %d: %s, seed %d", number, total, arm.name, seed)
            yield Run(experiment, arm, seed).outcome()


@dataclass(frozen=True)
class Speed:
    """A student's median pass in milliseconds, one image at a time without the U-Net, and its number of parameters."""

    milliseconds: float
    parameters: int


def student_speeds(recipe: Recipe, backbones: Sequence[str], side: int, device: torch.device) -> dict[str, Speed]:
    """Time the recipe's student with these backbones. Their passes alternate, so that all see the same machine load."""
    students = {name: _untrained(recipe, name).to(device) for name in backbones}
    x = torch.rand(1, 3, side, side, device=device) * 2 - 1
    passes: dict[str, list[float]] = {name: [] for name in backbones}
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            for name, student in students.items():
                passes[name].append(seconds_taken(lambda student=student: _answer(student, x), device))  # type: ignore[misc]
    return {
        name: Speed(1000 * median(passes[name]), sum(value.numel() for value in student.parameters()))
        for name, student in students.items()
    }


def _untrained(recipe: Recipe, backbone: str) -> Student:
    config = StudentConfig(**{name: getattr(recipe.student, name) for name in StudentConfig.model_fields})
    student = Student(config.model_copy(update={"backbone": backbone}))
    return student.to(memory_format=torch.channels_last).eval()


def _answer(student: Student, x: Tensor) -> Tensor:
    logit: Tensor = student(x, x).logit.cpu()
    return logit
