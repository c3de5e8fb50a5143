"""One training, from data set to model card: the stages of `distildire train`.

All that can be wrong is found before the first stage, which may take hours. Every stage leaves its result in a folder
and goes on from there when the same command is run again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from shared.errors import DistildireError
from worker.atomic_files import sweep
from worker.datasets.contamination import short_digests
from worker.datasets.dataset import Dataset, DatasetError
from worker.datasets.formats import Split
from worker.metrics.ranking import missing_classes
from worker.model.cards.registry import find_card
from worker.model.cards.schema import Format, ModelName
from worker.model.diffusion import SpacedDiffusion
from worker.model.loading import Precision, choose_device, choose_dtype, load_unet, stated_precision
from worker.model.networks.unet import DTYPES
from worker.model.weights.digests import digests, identify
from worker.training.export.files import PublishedFile, publish_weights
from worker.training.export.model import Result, architecture
from worker.training.export.report import described, device_name
from worker.training.loop.checkpointing import check_fingerprint, train
from worker.training.loop.disk_space import on_one_disk, require_room
from worker.training.loop.distributed import Team
from worker.training.loop.stage_timings import Stopwatch
from worker.training.pairs.store import NoiseMaker, PairKey, PairStore
from worker.training.pretrained import Teacher, check_sizes, new_student
from worker.training.recipe import Augmentation, Recipe
from worker.training.request import Order
from worker.training.student_trainer import Setting, StudentTrainer

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class TrainingError(DistildireError):
    """The training cannot begin."""


class Training:
    """One order, and everything about it that could be checked.

    Raises:
        DistildireError: what is wrong, with its remedy.
    """

    def __init__(self, order: Order, team: Team) -> None:
        self.order, self.recipe, self.team = order, order.recipe, team
        _check_name(order.name)
        if order.recipe.training.batch_size % team.size:
            raise TrainingError(
                f"A batch of {order.recipe.training.batch_size} cannot be shared evenly by {team.size} processes: "
                "change training.batch_size, or start another number."
            )
        self.installed = find_card(order.adm, order.models_dir)
        card = self.installed.card
        self.adm_path = self.installed.locate(card.adm)
        self.device = choose_device(order.device)
        dtype = choose_dtype(stated_precision(card, _precision(order.recipe)), self.device)
        if self.device.type == "cuda" and team.size > 1:
            self.device = torch.device("cuda", team.local_rank)
        self.precision: Format = next(name for name, known in DTYPES.items() if known == dtype)
        teacher = self.recipe.teacher
        self.student = new_student(self.recipe.student, self.recipe.training.seed)
        self.teacher = Teacher(teacher, self.recipe.student.input_size) if teacher.weight else None
        check_sizes(self.student, self.teacher, self.recipe.student, card.image_size)
        self.dataset = team.from_main(order.dataset)
        _check_splits(order.data, self.dataset)
        self.pairs = self._store("train", self.recipe.augmentation, self.recipe.pairs.variants)
        self.validation = self._store("validation", Augmentation(), variants=1)
        require_room(self._needs())
        self.checkpoint = order.out / f"{order.name}.checkpoint"
        self.fingerprint = self._fingerprint()
        check_fingerprint(self.checkpoint, self.fingerprint)
        self._check_place()
        order.out.mkdir(parents=True, exist_ok=True)
        for folder in (order.out, self.pairs.folder, self.validation.folder):
            sweep(folder)
        self.result = Result(order, self.installed, self.adm_path, self.pairs.key.adm_sha256)
        self.stopwatch = Stopwatch(order.out / f"{order.name}.seconds.json")

    def run(self) -> Path:
        """Do what is not done yet, and return the path of the card."""
        if self.team.is_main:
            self._tell()
        self._timed("pairs", self.make_pairs)
        trainer = self._timed("student", self.train_student)
        if self.team.is_main:
            self.publish(trainer)
        self.team.wait()
        return self.order.out / f"{self.order.name}.toml"

    def make_pairs(self, *more: PairStore) -> None:
        """Stage 1: noise maps, and DIRE images where the teacher sees them; those of more images too."""
        stores = (self.pairs, self.validation, *more)
        if self.team.from_main(lambda: any(store.missing() for store in stores)):
            diffusion = SpacedDiffusion(self.installed.card.diffusion)
            unet = load_unet(self.installed).set_precision(DTYPES[self.precision]).to(self.device)
            maker = NoiseMaker(unet.to(memory_format=torch.channels_last).eval(), diffusion, self.device)
            for store in stores:
                store.make(maker, self.team)

    def train_student(self) -> StudentTrainer:
        """Stage 2."""
        trainer = StudentTrainer(
            self.student,
            self.recipe.training,
            self.pairs,
            self.validation,
            fingerprint=self.fingerprint,
            teacher=self.teacher,
            setting=Setting(self.device, self.team, curves=self.order.out / f"{self.order.name}.curves"),
        )
        pause = self.recipe.training.checkpoint_seconds
        with closing(trainer):
            train(trainer, trainer.steps, self.checkpoint, every=1, pause=pause, keeps=self.team.is_main)
        return trainer

    def publish(self, trainer: StudentTrainer) -> None:
        """Write weights, report and card, and see that the card loads."""
        order, halved = self.order, self.recipe.card.stored == "fp16"
        path = order.out / f"{order.name}.student.safetensors"
        student = publish_weights(trainer.best_student().state_dict(), path, halved=halved)
        self.result.write(student, self._report(trainer, student))

    def _needs(self) -> list[tuple[Path, int]]:
        """Return what will be written where, in bytes: pairs, and the ADM's weights where they cannot be linked."""
        needs = [(store.folder, store.missing_bytes()) for store in (self.pairs, self.validation)]
        if not on_one_disk(self.adm_path, self.order.out) and not (self.order.out / self.adm_path.name).exists():
            needs.append((self.order.out, self.adm_path.stat().st_size))
        return needs

    def _check_place(self) -> None:
        """Raise TrainingError where the results would take the place of something else."""
        card, adm = self.order.out / f"{self.order.name}.toml", self.order.out / self.adm_path.name
        if card.exists() and not self.checkpoint.exists():
            raise TrainingError(f"{card} was not made by this training. Choose another name or folder.")
        if adm.exists() and _digest(adm) != _digest(self.adm_path):
            raise TrainingError(f"{adm} is another file than {self.adm_path}. Name another folder for the results.")

    def _store(self, split: Split, augmentation: Augmentation, variants: int) -> PairStore:
        card = self.installed.card
        key = PairKey(
            adm_sha256=identify(self.adm_path, card.adm),
            unet=architecture(card),
            diffusion=card.diffusion,
            image_size=card.image_size,
            precision=self.precision,
            augmentation=augmentation,
            seed=self.recipe.pairs.seed,
            with_dire=self.recipe.reads_dire or (self.recipe.needs_dire and split == "train"),
        )
        images, reads_dire = self.dataset.of(split), self.recipe.reads_dire
        return PairStore(self.order.pairs, key, images, variants, reads_dire=reads_dire)

    def _fingerprint(self) -> str:
        """Return all that shapes the weights, with digests in place of paths."""
        fields = self.recipe.model_dump(mode="json", include={"student", "teacher", "training"})
        for section in ("student", "teacher"):
            fields[section]["weights"] = _digest(getattr(self.recipe, section).weights)
        del fields["training"]["checkpoint_seconds"]
        parts = [f"{section}.{name}={value!r}" for section, below in fields.items() for name, value in below.items()]
        return ", ".join([*parts, f"pairs={self.pairs.identity}", f"validation={self.validation.identity}"])

    def _timed(self, stage: str, work: Callable[[], _T]) -> _T:
        """Do a stage; the leading process takes its time."""
        if not self.team.is_main:
            return work()
        with self.stopwatch.timed(stage):
            return work()

    def _tell(self) -> None:
        for skipped in self.dataset.skipped:
            log.warning("left out: %s: %s", skipped.path, skipped.reason)
        counts = ", ".join(f"{split} {len(self.dataset.of(split))}" for split in get_args(Split))
        log.info("%d images (%s), %d files left out", len(self.dataset.images), counts, len(self.dataset.skipped))

    def _report(self, trainer: StudentTrainer, student: PublishedFile) -> dict[str, Any]:
        return {
            "name": self.order.name,
            "recipe": self.recipe.model_dump(mode="json"),
            "data": described(self.dataset)
            | {
                "without_generators": list(self.order.without),
                "permuted_labels": self.order.permute_labels,
                "sha256": self.pairs.data_sha256,
                "images": {
                    "train": short_digests(self.pairs.images),
                    "validation": short_digests(self.validation.images),
                },
            },
            "adm": {"card": self.installed.card.name, "sha256": self.pairs.key.adm_sha256, "precision": self.precision},
            "pairs": {"train": len(self.pairs.labels), "validation": len(self.validation.labels)},
            "student": {
                "sha256": student.sha256,
                "parameters": sum(value.numel() for value in self.student.parameters()),
            },
            "best": {name: trainer.best[name] for name in ("epoch", "average_precision")},
            "epochs": trainer.history,
            "seconds": self.stopwatch.seconds(),
            "hardware": {"device": device_name(self.device), "processes": self.team.size},
            "versions": {name: version(name) for name in ("torch", "torchvision")},
        }


def _precision(recipe: Recipe) -> Precision:
    """DIRE students know float32 alone: their logit hangs on 40 passes of the U-Net, and a self-test holds it fast."""
    return "fp32" if recipe.reads_dire else recipe.pairs.precision


def _check_name(name: str) -> None:
    try:
        TypeAdapter(ModelName).validate_python(name)
    except ValidationError as error:
        raise TrainingError(
            f"A model cannot be called {name!r}: use at most 100 letters, digits, dots, hyphens and underscores, "
            "and begin with a letter or digit."
        ) from error


def _check_splits(source: Path, dataset: Dataset) -> None:
    """Raise DatasetError where a split that training needs lacks a class."""
    faults = []
    for split in ("train", "validation"):
        fake = np.array([image.fake for image in dataset.of(split)], dtype=np.bool_)
        faults += [
            f"the split {split} has no {name} image: add some, or state other splits" for name in missing_classes(fake)
        ]
    if faults:
        raise DatasetError(source, faults)


def _digest(path: Path | None) -> str | None:
    return None if path is None else digests(path, ["sha256"])["sha256"]
