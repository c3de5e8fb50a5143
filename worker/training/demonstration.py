"""Train `DISTILDIRE-DEMO`, from photographs to card: `python -m worker.training.demonstration --photographs D --out D`.

Every stage leaves a file in the output folder and is skipped where that file exists; the two trainings go on from their
checkpoints. docs/demonstration-model.md says where the photographs are from and what came out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import torch
from PIL import Image

from worker.model.config import DiffusionConfig, Format, Inputs, StudentConfig, UnetConfig
from worker.model.diffusion import Denoiser, SpacedDiffusion
from worker.model.student import Student
from worker.model.unet import AdmUnet
from worker.training.adm import AdmPlan, AdmTrainer
from worker.training.dataset import Split, split_of
from worker.training.examples import Examples, make_examples
from worker.training.fakes import Faker, PictureCounts, Pictures, make_pictures
from worker.training.held_out import figures
from worker.training.metrics import Floats
from worker.training.photographs import Photograph, load_split, read_manifest
from worker.training.pretrained import new_student
from worker.training.publishing import CardText, PublishedFile, card_toml, publish_weights, read_published
from worker.training.recipe import StudentOptions, StudentPlan
from worker.training.resumable import train
from worker.training.stopwatch import Stopwatch
from worker.training.student import StudentTrainer, probabilities
from worker.training.thresholds import youden_threshold

log = logging.getLogger(__name__)

NAME = "DISTILDIRE-DEMO"
NOTICE = (
    "Demonstration model: small networks, trained in less than an hour on 127 photographs. It shows how the service "
    "works; its verdicts say nothing about images of other generators."
)
STUDENTS: dict[str, Inputs] = {"both": "image+eps", "rgb": "image", "eps": "eps"}
"""What each student reads, by its name in the report: the shipped one, and two that tell what each half is worth."""

SHOWN_SAMPLES = 4
PRECISION: Format = "fp32"
"""Networks as small as these gain little from bfloat16, which moves a probability by up to 0.3."""


@dataclass(frozen=True)
class Recipe:
    """All that determines the model besides the photographs.

    `copies`: file histories of every training picture. `compiled`: whether the fakes are made by a `torch.compile` ADM,
    which takes a minute to start and is three times as fast.
    """

    image_size: int
    unet: UnetConfig
    student: StudentConfig
    adm_plan: AdmPlan
    student_plan: StudentPlan
    counts: dict[Split, PictureCounts]
    copies: int
    seed: int
    compiled: bool


RECIPE = Recipe(
    image_size=64,
    unet=UnetConfig(
        num_channels=32,
        num_res_blocks=1,
        channel_mult=(1, 2, 3, 4),
        attention_resolutions=(16, 8),
        num_head_channels=16,
        learn_sigma=False,  # DDIM and the noise map use eps alone
    ),
    student=StudentConfig(backbone="mobilenet_v3_small", input_size=160),
    adm_plan=AdmPlan(steps=900, decay_steps=1200, batch_size=32, seed=20261122),
    student_plan=StudentPlan(epochs=4, batch_size=32, seed=20261123),
    counts={
        "train": PictureCounts(photographs=600, samples=200, sdedits=240, reconstructions=60),
        "validation": PictureCounts(photographs=200, samples=80, sdedits=120, reconstructions=20),
        "test": PictureCounts(photographs=200, samples=80, sdedits=120, reconstructions=20),
    },
    copies=3,
    seed=20261124,
    compiled=True,
)


class Demonstration:
    """One run of a recipe in a folder. The properties' order is that of the stages."""

    def __init__(self, recipe: Recipe, manifest: Sequence[Photograph], root: Path, out: Path) -> None:
        self.recipe, self.manifest, self.root, self.out = recipe, manifest, root, out
        self.diffusion = SpacedDiffusion(DiffusionConfig())
        self.stopwatch = Stopwatch(out / "seconds.json")
        out.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Do all stages that are not done yet."""
        adm = self.train_adm()
        unet = self._unet(adm.path)
        pictures = {split: self.make_pictures(split, unet) for split in get_args(Split)}
        examples = {split: self.make_examples(split, pictures[split], unet) for split in get_args(Split)}
        self.save_samples(unet)
        students = {name: self.train_student(name, examples) for name in STUDENTS}
        report = self.evaluate(students, examples)
        self.write_card(adm, students["both"], report)

    def train_adm(self) -> PublishedFile:
        """Train the ADM on the photographs of the training split; publish the average of its weights."""
        plan = self.recipe.adm_plan
        trainer = AdmTrainer(self.recipe.unet, self.recipe.image_size, self._photographs("train"), plan)
        with self.stopwatch.timed("adm"):
            train(trainer, plan.steps, self.out / "adm.checkpoint", every=100)
        return publish_weights(trainer.average, self.out / f"{NAME}.adm.safetensors")

    def make_pictures(self, split: Split, unet: AdmUnet) -> Pictures:
        """Cut one split's photographs and make its fakes."""
        path = self.out / f"pictures-{split}.npz"
        if not path.exists():
            log.info("making pictures of the %s split", split)
            fast: Denoiser = torch.compile(unet) if self.recipe.compiled else unet
            faker = Faker(fast, self.diffusion, self.recipe.image_size)
            with self.stopwatch.timed("pictures"):
                pictures = make_pictures(
                    faker, self._photographs(split), self.recipe.counts[split], self._seed(split, 0)
                )
            _save_whole(pictures, path)
        return Pictures.load(path)

    def make_examples(self, split: Split, pictures: Pictures, unet: AdmUnet) -> Examples:
        """Give the pictures their files' histories and the noise, by turns in float32 and in bfloat16."""
        path = self.out / f"examples-{split}.npz"
        if not path.exists():
            log.info("making examples of the %s split", split)
            copies = self.recipe.copies if split == "train" else 1
            half = self._unet(self.out / f"{NAME}.adm.safetensors").set_precision(torch.bfloat16)
            with self.stopwatch.timed("examples"):
                examples = make_examples(pictures, [unet, half], self.diffusion, copies, self._seed(split, 1))
            _save_whole(examples, path)
        return Examples.read(path)

    def save_samples(self, unet: AdmUnet) -> None:
        """Write a few images sampled from the ADM, for demonstrations: the first ones, not chosen ones."""
        faker = Faker(unet, self.diffusion, self.recipe.image_size)
        for number, pixels in enumerate(faker.sample(SHOWN_SAMPLES, np.random.default_rng(self.recipe.seed)), start=1):
            Image.fromarray(pixels).save(self.out / f"sampled-{number}.png")

    def train_student(self, named: str, examples: dict[Split, Examples]) -> PublishedFile:
        """Train one student, or a control of it, and publish its weights."""
        plan, config = self.recipe.student_plan, self._student(named)
        name = "student" if named == "both" else f"student-{named}"
        trainer = StudentTrainer(
            new_student(StudentOptions(**config.model_dump()), plan.seed),
            plan,
            examples["train"],
            examples["validation"],
            fingerprint=f"{plan!r} {config!r} {len(examples['train'])}",
        )
        with self.stopwatch.timed(name), closing(trainer):
            train(trainer, trainer.steps, self.out / f"{name}.checkpoint", every=50)
        return publish_weights(trainer.best_student().state_dict(), self.out / f"{NAME}.{name}.safetensors")

    def evaluate(self, students: dict[str, PublishedFile], examples: dict[Split, Examples]) -> dict[str, Any]:
        """Choose each student's threshold on the validation split, then look at the test split once."""
        report: dict[str, Any] = {
            "photographs": {split: self._count(split) for split in get_args(Split)},
            "seconds": self.stopwatch.seconds(),
        }
        for named, published in students.items():
            scores = {split: self._scores(published, named, examples[split]) for split in get_args(Split)}
            threshold = round(youden_threshold(scores["validation"], examples["validation"].fake.numpy()), 4)
            by_split = {
                split: asdict(figures(scores[split], part.fake.numpy(), part.kinds, threshold))
                for split, part in examples.items()
            }
            report[named] = {"threshold": threshold, **by_split}
        (self.out / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        return report

    def write_card(self, adm: PublishedFile, student: PublishedFile, report: dict[str, Any]) -> None:
        """Write the card; its claims are the report's numbers."""
        text = CardText(
            name=NAME,
            license="Apache-2.0",
            threshold=report["both"]["threshold"],
            notice=NOTICE,
            image_size=self.recipe.image_size,
            precision=PRECISION,
            unet=self.recipe.unet,
            student=self.recipe.student,
            provenance=provenance(report, self.recipe),
            diffusion=DiffusionConfig(),
            demonstration=True,
        )
        (self.out / f"{NAME}.toml").write_text(card_toml(text, adm, student), encoding="utf-8")

    def _photographs(self, split: Split) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
        return load_split(self.manifest, self.root, split)

    def _count(self, split: Split) -> int:
        return sum(split_of(photograph.group) == split for photograph in self.manifest)

    def _seed(self, split: Split, purpose: int) -> int:
        return self.recipe.seed + 10 * get_args(Split).index(split) + purpose

    def _unet(self, weights: Path) -> AdmUnet:
        """The ADM as it is shipped, so that every figure is of the shipped weights."""
        unet = AdmUnet(self.recipe.unet, self.recipe.image_size)
        unet.load_state_dict(read_published(weights))
        return unet.to(memory_format=torch.channels_last).eval()

    def _student(self, named: str) -> StudentConfig:
        return self.recipe.student.model_copy(update={"inputs": STUDENTS[named]})

    def _scores(self, published: PublishedFile, named: str, examples: Examples) -> Floats:
        student = Student(self._student(named))
        student.load_state_dict(read_published(published.path))
        return probabilities(student.to(memory_format=torch.channels_last).eval(), examples)


def provenance(report: dict[str, Any], recipe: Recipe) -> dict[str, str | int | float]:
    """Return the card's `[provenance]`: data, seed, time and held-out figures, all taken from the report."""
    both, rgb, eps = (report[named]["test"] for named in STUDENTS)
    count, seconds = report["photographs"], report["seconds"]
    kinds = ", ".join(f"{kind} {share:.3f}" for kind, share in both["fakes_right"].items())
    minutes = sum(seconds.get(stage, 0.0) for stage in ("adm", "pictures", "examples", "student")) / 60
    return {
        "data": (
            f"{sum(count.values())} photographs from Debian and PyPI packages (worker/training/photographs.csv), split "
            f"by subject before cropping: {count['train']} train, {count['validation']} validation, {count['test']} "
            "test. Fakes are made by this model's own ADM: sampled from noise, SDEdit, inversion and reconstruction."
        ),
        "seed": recipe.seed,
        "training_minutes": round(minutes, 1),
        "hardware": "2 CPU cores, shared with other work",
        "threshold_chosen_on": "the validation split, for the best balanced accuracy",
        "test_photographs": both["photographs"],
        "test_fakes": both["fakes"],
        "test_average_precision": round(both["average_precision"], 4),
        "test_accuracy": round(both["accuracy"], 4),
        "test_balanced_accuracy": round(both["balanced_accuracy"], 4),
        "test_photographs_called_real": round(both["photographs_right"], 4),
        "test_fakes_called_fake": kinds,
        "control_rgb_only_average_precision": round(rgb["average_precision"], 4),
        "control_rgb_only_accuracy": round(rgb["accuracy"], 4),
        "control_eps_only_average_precision": round(eps["average_precision"], 4),
        "control_eps_only_accuracy": round(eps["accuracy"], 4),
        "limits": (
            "The fakes of the test split come from the same small ADM as those of training. Nothing was measured on "
            "images of other generators."
        ),
    }


def _save_whole(data: Pictures | Examples, path: Path) -> None:
    """Let a stage's file appear only once it is complete."""
    partial = path.with_suffix(".partial.npz")
    data.save(partial)
    partial.replace(path)


@click.command()
@click.option("--photographs", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
def main(photographs: Path, out: Path) -> None:
    """Train the demonstration model from unpacked PHOTOGRAPHS packages; OUT keeps checkpoints and results."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    Demonstration(RECIPE, read_manifest(), photographs, out).run()


if __name__ == "__main__":
    main()
