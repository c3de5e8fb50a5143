"""One training, from data set to model card: the stages of `distildire train`.

`prepare` finds all mistakes before the first stage, which may take hours. Every stage leaves its result in a folder,
and the same command continues from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from shared.errors import DistildireError
from worker.atomic_files import sweep
from worker.datasets.contamination import short_digests
from worker.datasets.dataset import Dataset, DatasetError
from worker.datasets.formats import Split
from worker.metrics.ranking import missing_classes
from worker.model.cards.registry import InstalledCard, find_card
from worker.model.cards.schema import Format, ModelName
from worker.model.diffusion import SpacedDiffusion
from worker.model.loading import Precision, choose_device, choose_dtype, load_unet, stated_precision
from worker.model.networks.student import Student
from worker.model.networks.unet import DTYPES
from worker.model.weights.digests import digests, identify
from worker.training.export.files import PublishedFile, publish_weights
from worker.training.export.model import TrainedModel, architecture
from worker.training.export.report import described, device_name
from worker.training.loop.checkpointing import check_fingerprint, train
from worker.training.loop.disk_space import on_one_disk, require_disk_space
from worker.training.loop.distributed import ProcessGroup
from worker.training.loop.stage_timings import Stopwatch
from worker.training.pairs.store import NoiseMaker, PairKey, PairStore
from worker.training.pretrained import Teacher, check_sizes, new_student
from worker.training.recipe import Augmentation, Recipe
from worker.training.request import TrainingRequest
from worker.training.student_trainer import Setting, StudentTrainer

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class TrainingError(DistildireError):
    """The training cannot begin."""


@dataclass(frozen=True)
class Adm:
    """The ADM that makes the noise maps: its card, its weights file, and where and in which precision it runs."""

    installed: InstalledCard
    path: Path
    device: torch.device
    precision: Format


def prepare(request: TrainingRequest, processes: ProcessGroup) -> Training:
    """Check everything about a request that can be checked before hours of work, and return its training.

    Raises:
        DistildireError: what is wrong, with its remedy.
    """
    recipe = request.recipe
    _check_name(request.name)
    _check_batch_size(recipe, processes)
    adm = _adm(request, processes)
    student = new_student(recipe.student, recipe.training.seed)
    teacher = Teacher(recipe.teacher, recipe.student.input_size) if recipe.teacher.weight else None
    check_sizes(student, teacher, recipe.student, adm.installed.card.image_size)
    dataset = processes.from_main(request.dataset)
    _check_splits(request.data, dataset)
    pairs = _store(request, adm, dataset, "train")
    validation = _store(request, adm, dataset, "validation")
    require_disk_space(_disk_needs(request, adm, (pairs, validation)))
    checkpoint = request.out / f"{request.name}.checkpoint"
    fingerprint = _fingerprint(recipe, pairs, validation)
    check_fingerprint(checkpoint, fingerprint)
    _check_results_folder(request, adm, checkpoint)
    request.out.mkdir(parents=True, exist_ok=True)
    for folder in (request.out, pairs.folder, validation.folder):
        sweep(folder)
    return Training(request, processes, adm, student, teacher, dataset, pairs, validation, checkpoint, fingerprint)


@dataclass(frozen=True)
class Training:
    """One training that `prepare` has checked.

    `pairs`, `validation`: the image and noise pairs of the splits train and validation. `fingerprint`: everything that
    determines the weights, so that no checkpoint of another training is used.
    """

    request: TrainingRequest
    processes: ProcessGroup
    adm: Adm
    student: Student
    teacher: Teacher | None
    dataset: Dataset
    pairs: PairStore
    validation: PairStore
    checkpoint: Path
    fingerprint: str

    @property
    def recipe(self) -> Recipe:
        """The request's recipe."""
        return self.request.recipe

    @property
    def model(self) -> TrainedModel:
        """The files that the training writes."""
        return TrainedModel(self.request, self.adm.installed, self.adm.path, self.pairs.key.adm_sha256)

    @property
    def stopwatch(self) -> Stopwatch:
        """The seconds of each stage, over all runs."""
        return Stopwatch(self.request.out / f"{self.request.name}.seconds.json")

    def run(self) -> Path:
        """Run the stages that are not complete yet, and return the path of the card."""
        if self.processes.is_main:
            self._tell()
        self._timed("pairs", self.make_pairs)
        trainer = self._timed("student", self.train_student)
        if self.processes.is_main:
            self.publish(trainer)
        self.processes.wait()
        return self.request.out / f"{self.request.name}.toml"

    def make_pairs(self, *more: PairStore) -> None:
        """Stage 1: make noise maps, and DIRE images if needed; also those of the stores in `more`."""
        stores = (self.pairs, self.validation, *more)
        if self.processes.from_main(lambda: any(store.missing() for store in stores)):
            diffusion = SpacedDiffusion(self.adm.installed.card.diffusion)
            unet = load_unet(self.adm.installed).set_precision(DTYPES[self.adm.precision]).to(self.adm.device)
            maker = NoiseMaker(unet.to(memory_format=torch.channels_last).eval(), diffusion, self.adm.device)
            for store in stores:
                store.make(maker, self.processes)

    def train_student(self) -> StudentTrainer:
        """Stage 2: train the student."""
        trainer = StudentTrainer.build(
            self.student,
            self.recipe.training,
            self.pairs,
            self.validation,
            fingerprint=self.fingerprint,
            teacher=self.teacher,
            setting=Setting(self.adm.device, self.processes, curves=self.request.out / f"{self.request.name}.curves"),
        )
        pause = self.recipe.training.checkpoint_seconds
        with closing(trainer):
            train(trainer, trainer.steps, self.checkpoint, every=1, pause=pause, keeps=self.processes.is_main)
        return trainer

    def publish(self, trainer: StudentTrainer) -> None:
        """Write weights, report and card, and check that the card loads."""
        request, halved = self.request, self.recipe.card.stored == "fp16"
        path = request.out / f"{request.name}.student.safetensors"
        student = publish_weights(trainer.best_student().state_dict(), path, halved=halved)
        self.model.write(student, self._report(trainer, student))

    def _timed(self, stage: str, work: Callable[[], _T]) -> _T:
        """Run a stage; the main process measures its time."""
        if not self.processes.is_main:
            return work()
        with self.stopwatch.timed(stage):
            return work()

    def _tell(self) -> None:
        for skipped in self.dataset.skipped:
            log.warning("skipped: %s: %s", skipped.path, skipped.reason)
        counts = ", ".join(f"{split} {len(self.dataset.of(split))}" for split in get_args(Split))
        log.info("%d images (%s), %d files skipped", len(self.dataset.images), counts, len(self.dataset.skipped))

    def _report(self, trainer: StudentTrainer, student: PublishedFile) -> dict[str, Any]:
        return {
            "name": self.request.name,
            "recipe": self.recipe.model_dump(mode="json"),
            "data": described(self.dataset)
            | {
                "without_generators": list(self.request.without),
                "permuted_labels": self.request.permute_labels,
                "sha256": self.pairs.data_sha256,
                "images": {
                    "train": short_digests(self.pairs.images),
                    "validation": short_digests(self.validation.images),
                },
            },
            "adm": {
                "card": self.adm.installed.card.name,
                "sha256": self.pairs.key.adm_sha256,
                "precision": self.adm.precision,
            },
            "pairs": {"train": len(self.pairs.labels), "validation": len(self.validation.labels)},
            "student": {
                "sha256": student.sha256,
                "parameters": sum(value.numel() for value in self.student.parameters()),
            },
            "best": {name: trainer.best[name] for name in ("epoch", "average_precision")},
            "epochs": trainer.history,
            "seconds": self.stopwatch.seconds(),
            "hardware": {"device": device_name(self.adm.device), "processes": self.processes.size},
            "versions": {name: version(name) for name in ("torch", "torchvision")},
        }


def _adm(request: TrainingRequest, processes: ProcessGroup) -> Adm:
    installed = find_card(request.adm, request.models_dir)
    device = choose_device(request.device)
    dtype = choose_dtype(stated_precision(installed.card, _precision(request.recipe)), device)
    if device.type == "cuda" and processes.size > 1:
        device = torch.device("cuda", processes.local_rank)
    precision: Format = next(name for name, known in DTYPES.items() if known == dtype)
    return Adm(installed, installed.locate(installed.card.adm), device, precision)


def _store(request: TrainingRequest, adm: Adm, dataset: Dataset, split: Literal["train", "validation"]) -> PairStore:
    """Return the pairs of a split. Only those for training are augmented, and have several variants."""
    recipe, card, learns = request.recipe, adm.installed.card, split == "train"
    key = PairKey(
        adm_sha256=identify(adm.path, card.adm),
        unet=architecture(card),
        diffusion=card.diffusion,
        image_size=card.image_size,
        precision=adm.precision,
        augmentation=recipe.augmentation if learns else Augmentation(),
        seed=recipe.pairs.seed,
        with_dire=recipe.reads_dire or (recipe.needs_dire and learns),
    )
    variants = recipe.pairs.variants if learns else 1
    return PairStore(request.pairs, key, dataset.of(split), variants, reads_dire=recipe.reads_dire)


def _disk_needs(request: TrainingRequest, adm: Adm, stores: Sequence[PairStore]) -> list[tuple[Path, int]]:
    """Return the bytes to be written to each folder: pairs, and the ADM's weights if they cannot be linked."""
    needs = [(store.folder, store.missing_bytes()) for store in stores]
    if not on_one_disk(adm.path, request.out) and not (request.out / adm.path.name).exists():
        needs.append((request.out, adm.path.stat().st_size))
    return needs


def _fingerprint(recipe: Recipe, pairs: PairStore, validation: PairStore) -> str:
    """Return everything that determines the weights, with digests in place of paths."""
    fields = recipe.model_dump(mode="json", include={"student", "teacher", "training"})
    for section in ("student", "teacher"):
        fields[section]["weights"] = _digest(getattr(recipe, section).weights)
    del fields["training"]["checkpoint_seconds"]
    parts = [f"{section}.{name}={value!r}" for section, below in fields.items() for name, value in below.items()]
    return ", ".join([*parts, f"pairs={pairs.identity}", f"validation={validation.identity}"])


def _precision(recipe: Recipe) -> Precision:
    """DIRE students need float32: their logit depends on 40 passes of the U-Net, and the self-test compares it."""
    return "fp32" if recipe.reads_dire else recipe.pairs.precision


def _check_name(name: str) -> None:
    try:
        TypeAdapter(ModelName).validate_python(name)
    except ValidationError as error:
        raise TrainingError(
            f"A model cannot be called {name!r}: use at most 100 letters, digits, dots, hyphens and underscores, "
            "and begin with a letter or digit."
        ) from error


def _check_batch_size(recipe: Recipe, processes: ProcessGroup) -> None:
    """Raise TrainingError if the processes cannot share a batch evenly."""
    size = recipe.training.batch_size
    if size % processes.size:
        raise TrainingError(
            f"A batch of {size} cannot be shared evenly by {processes.size} processes: change training.batch_size, or "
            "start another number."
        )


def _check_results_folder(request: TrainingRequest, adm: Adm, checkpoint: Path) -> None:
    """Raise TrainingError if the results would replace files of another training."""
    card, copy = request.out / f"{request.name}.toml", request.out / adm.path.name
    if card.exists() and not checkpoint.exists():
        raise TrainingError(f"{card} was not made by this training. Choose another name or folder.")
    if copy.exists() and _digest(copy) != _digest(adm.path):
        raise TrainingError(f"{copy} is another file than {adm.path}. Name another folder for the results.")


def _check_splits(source: Path, dataset: Dataset) -> None:
    """Raise DatasetError if a split that training needs lacks a class."""
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
