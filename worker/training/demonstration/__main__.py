"""Makes the inputs of the demonstration model: two small ADMs, and data sets of photographs and fakes.

Run `python -m worker.training.demonstration --photographs D --out D`. Then `distildire train`, `calibrate` and
`evaluate` make the model, as they do from anybody's images: docs/demonstration-model.md has all commands and results.

Stages that take minutes leave files in the output folder, and are skipped if the files exist. The training of an ADM
continues from its checkpoint.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from worker.atomic_files import write_whole
from worker.datasets.formats import Split
from worker.model.cards.schema import DiffusionConfig, StudentConfig, UnetConfig
from worker.model.diffusion import Denoiser, SpacedDiffusion, linear_alpha_bars, q_sample
from worker.model.networks.student import Student
from worker.model.networks.unet import AdmUnet
from worker.model.weights.digests import digests
from worker.training.demonstration.adm_trainer import AdmPlan, AdmTrainer
from worker.training.demonstration.encoding_history import saved
from worker.training.demonstration.photographs import Photograph, Pixels, Use, load, random_crop, read_manifest, to_unit
from worker.training.demonstration.synthesis import BATCH, Faker, Kind
from worker.training.export.files import CardText, PublishedFile, card_toml, publish_weights, read_published
from worker.training.loop.checkpointing import train
from worker.training.loop.stage_timings import Stopwatch

log = logging.getLogger(__name__)

ADM_CARD = "DEMO-ADM"
NAME = "DISTILDIRE-DEMO"
SHOWN_SAMPLES = 4
STEPS = (0, 20, 100, 300)
"""The diffusion steps at which the ADMs are measured; the detector runs them at step 0."""

Rows = list[dict[str, str]]

LEARNED: tuple[Kind, ...] = (
    "sdedit-100", "sdedit-200", "sdedit-300", "sdedit-450", "sdedit-600", "reconstruction", "sampled"
)  # fmt: skip
MEDIUM: tuple[Kind, ...] = ("sdedit-200", "sdedit-300", "sdedit-450", "reconstruction")


@dataclass(frozen=True)
class AdmRecipe:
    """One ADM and its training."""

    unet: UnetConfig
    plan: AdmPlan


@dataclass(frozen=True)
class Fakes:
    """A set of fakes. `of`: whose crops; `kinds`: used in turn; `adm`: which ADM makes them (`adm`, `unseen-adm`)."""

    of: Use
    kinds: tuple[Kind, ...]
    adm: str = "adm"


FAKES: Mapping[str, Fakes] = {
    "adm": Fakes("adm", LEARNED),
    "train": Fakes("train", LEARNED),
    "validation": Fakes("validation", MEDIUM),
    "test": Fakes("test", MEDIUM),
    "strong": Fakes("test", ("sdedit-600", "sampled")),
    "hard": Fakes("test", ("sdedit-50", "sdedit-100")),
    "unseen-sampler": Fakes("test", ("ancestral-200", "ancestral-300", "ancestral-450")),
    "unseen-adm": Fakes("test", MEDIUM, adm="unseen-adm"),
}
"""The sets of fakes by name. The first four go into `images.csv`; each of the others goes into its own file, with the
test split's photographs. No student was trained on images from the sampler of `unseen-sampler` or from `unseen-adm`."""

SPLITS: Mapping[Use, Split] = {"adm": "train", "train": "train", "validation": "validation", "test": "test"}
"""The split of the student's data set to which the photographs of each use belong."""


@dataclass(frozen=True)
class DemonstrationRecipe:
    """Everything that determines the data besides the photographs.

    `crops`: the number of crops of each photograph, by use.
    """

    image_size: int
    adms: Mapping[str, AdmRecipe]
    student: StudentConfig
    crops: Mapping[Use, int]
    seed: int


RECIPE = DemonstrationRecipe(
    image_size=64,
    adms={
        "adm": AdmRecipe(
            UnetConfig(
                num_channels=32,
                num_res_blocks=1,
                channel_mult=(1, 2, 3, 4),
                attention_resolutions=(16, 8),
                num_head_channels=16,
                learn_sigma=False,  # DDIM and the noise map use eps alone
            ),
            AdmPlan(steps=900, decay_steps=1200, batch_size=32, seed=20261122),
        ),
        "unseen-adm": AdmRecipe(
            UnetConfig(
                num_channels=32,
                num_res_blocks=2,
                channel_mult=(1, 2, 2),
                attention_resolutions=(16,),
                num_head_channels=32,
                resblock_updown=False,
                use_scale_shift_norm=False,
                learn_sigma=False,
            ),
            AdmPlan(steps=700, decay_steps=900, batch_size=24, seed=20261125),
        ),
    },
    student=StudentConfig(backbone="mobilenet_v3_small", input_size=160),
    crops={"adm": 8, "train": 8, "validation": 4, "test": 5},
    seed=20261124,
)


class Demonstration:
    """One run of a recipe in a folder."""

    def __init__(self, recipe: DemonstrationRecipe, manifest: Sequence[Photograph], root: Path, out: Path) -> None:
        self.recipe, self.manifest, self.root, self.out = recipe, manifest, root, out
        self.diffusion = SpacedDiffusion(DiffusionConfig())
        self.stopwatch = Stopwatch(out / "seconds.json")
        self._crops: dict[Use, tuple[Pixels, list[str]]] = {}
        (out / "models").mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Run all stages that are not complete yet."""
        for name in self.recipe.adms:
            self.train_adm(name)
        self.write_adm_card()
        self.measure_adms()
        self.save_samples()
        photographs = {use: self.save_photographs(use) for use in self.recipe.crops}
        fakes = {name: self.save_fakes(name) for name in FAKES}
        images = [row for use, rows in photographs.items() for row in rows + fakes[use]]
        self._write_manifest("images", images)
        self._write_manifest("small", fewer(images))
        for name in fakes.keys() - photographs.keys():
            self._write_manifest(name, photographs[FAKES[name].of] + fakes[name])

    def train_adm(self, name: str) -> None:
        """Train one ADM on the photographs with the use `adm`; publish the average of its weights."""
        recipe, path = self.recipe.adms[name], self._weights(name)
        if path.exists():
            return
        trainer = AdmTrainer.build(recipe.unet, self.recipe.image_size, load(self._used("adm"), self.root), recipe.plan)
        with self.stopwatch.timed(name):
            train(trainer, recipe.plan.steps, self.out / f"{name}.checkpoint", every=100)
        publish_weights(trainer.average, path)

    def write_adm_card(self) -> None:
        """Write the card that `distildire train --adm` reads. A card needs a student; this one is untrained."""
        torch.manual_seed(self.recipe.seed)
        models = self.out / "models"
        student = publish_weights(Student(self.recipe.student).state_dict(), models / f"{ADM_CARD}.student.safetensors")
        text = CardText(
            name=ADM_CARD,
            license="Apache-2.0",
            threshold=0.5,
            notice="An ADM to train students with. Its own student is not trained: its verdicts mean nothing.",
            image_size=self.recipe.image_size,
            precision="fp32",  # so small networks gain little from bfloat16, which changes a probability by up to 0.3
            unet=self.recipe.adms["adm"].unet,
            student=self.recipe.student,
            provenance={},
            diffusion=DiffusionConfig(),
            demonstration=True,
        )
        weights = self._weights("adm")
        adm = PublishedFile(weights, digests(weights, ["sha256"])["sha256"])
        write_whole(models / f"{ADM_CARD}.toml", card_toml(text, adm, student).encode())

    def measure_adms(self) -> None:
        """Write each ADM's mean squared error of eps on the test split's crops, by step t; predicting 0 gives 1."""
        crops, _ = self._cut("test")
        losses = {
            name: {str(t): round(eps_loss(faker.unet, to_unit(crops), t, self.recipe.seed), 4) for t in STEPS}
            for name, faker in self._fakers.items()
        }
        write_whole(self.out / "adm-losses.json", (json.dumps(losses, indent=1) + "\n").encode())

    def save_samples(self) -> None:
        """Write the first few images sampled from the ADM, for demonstrations; they are not selected."""
        made = self._fakers["adm"].sample(SHOWN_SAMPLES, np.random.default_rng(self.recipe.seed))
        for number, pixels in enumerate(made, start=1):
            Image.fromarray(pixels).save(self.out / f"sampled-{number}.png")

    def save_photographs(self, use: Use) -> Rows:
        """Save the crops of a split's photographs as files, each with its own encoding history."""
        crops, groups = self._cut(use)
        return self._save(f"photographs-{use}", use, crops, groups, [""] * len(crops))

    def save_fakes(self, name: str) -> Rows:
        """Make a fake of each crop of a split, with the kinds in turn, and save them as the photographs are saved."""
        fakes = FAKES[name]
        crops, groups = self._cut(fakes.of)
        kinds = [fakes.kinds[index % len(fakes.kinds)] for index in range(len(crops))]
        made = np.empty_like(crops)
        if not self._done(name).exists():
            log.info("making %d fakes: %s", len(crops), name)
            with self.stopwatch.timed("fakes"):
                rng = np.random.default_rng([self.recipe.seed, *name.encode()])
                for kind in dict.fromkeys(kinds):
                    chosen = np.array(kinds) == kind
                    made[chosen] = self._fakers[fakes.adm].make(kind, crops[chosen], rng)
        return self._save(name, fakes.of, made, groups, kinds)

    def _save(self, name: str, use: Use, pictures: Pixels, groups: Sequence[str], kinds: Sequence[Kind]) -> Rows:
        """Write pictures below `images/NAME` and return their rows of the manifest. The rows are written last."""
        if not self._done(name).exists():
            folder = self.out / "images" / name
            folder.mkdir(parents=True, exist_ok=True)
            rows: Rows = []
            for index, (pixels, group, kind) in enumerate(zip(pictures, groups, kinds, strict=True)):
                file = saved(pixels, np.random.default_rng([self.recipe.seed, index, *name.encode()]))
                path = folder / f"{index:05}{file.suffix}"
                path.write_bytes(file.content)
                label = "fake" if kind else "real"
                where = path.relative_to(self.out).as_posix()
                rows.append({"path": where, "label": label, "generator": kind, "group": group, "split": SPLITS[use]})
            _write_rows(self._done(name), rows)
        with self._done(name).open(newline="", encoding="utf-8") as lines:
            return list(csv.DictReader(lines))

    def _cut(self, use: Use) -> tuple[Pixels, list[str]]:
        """Return the crops of a split's photographs, (N, S, S, 3), and the group of each."""
        if use not in self._crops:
            rng = np.random.default_rng([self.recipe.seed, *use.encode()])
            chosen, count, size = self._used(use), self.recipe.crops[use], self.recipe.image_size
            crops = [random_crop(picture, size, rng) for picture in load(chosen, self.root) for _ in range(count)]
            self._crops[use] = np.stack(crops), [photograph.group for photograph in chosen for _ in range(count)]
        return self._crops[use]

    @cached_property
    def _fakers(self) -> dict[str, Faker]:
        """A faker for each ADM, with its published weights."""
        return {name: Faker(self._unet(name), self.diffusion, self.recipe.image_size) for name in self.recipe.adms}

    def _unet(self, name: str) -> AdmUnet:
        unet = AdmUnet(self.recipe.adms[name].unet, self.recipe.image_size)
        unet.load_state_dict(read_published(self._weights(name)))
        return unet.to(memory_format=torch.channels_last).eval()

    def _weights(self, name: str) -> Path:
        return self.out / "models" / f"{NAME}.{name}.safetensors"

    def _used(self, use: Use) -> list[Photograph]:
        return [photograph for photograph in self.manifest if photograph.use == use]

    def _done(self, name: str) -> Path:
        return self.out / "images" / f"{name}.csv"

    def _write_manifest(self, name: str, rows: Rows) -> None:
        _write_rows(self.out / f"{name}.csv", rows)


def fewer(rows: Rows) -> Rows:
    """Return the rows, but with only one photograph and one fake per group for training: for repeated trainings."""
    first: dict[tuple[str, str], str] = {}
    return [
        row
        for row in rows
        if row["split"] != "train" or first.setdefault((row["group"], row["label"]), row["path"]) == row["path"]
    ]


@torch.no_grad()
def eps_loss(unet: Denoiser, x: Tensor, t: int, seed: int) -> float:
    """Return the mean squared error of eps for images x (N, 3, S, S) in [-1, 1], noised to step t of 1000."""
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal(x.shape, dtype=np.float32))
    noised = q_sample(x, noise, float(linear_alpha_bars(1000)[t]))
    found = [unet(part, torch.full((len(part),), t))[:, :3] for part in torch.split(noised, BATCH)]
    return float((torch.cat(found) - noise).square().mean())


def _write_rows(path: Path, rows: Rows) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["path", "label", "generator", "group", "split"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


@click.command()
@click.option("--photographs", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
def main(photographs: Path, out: Path) -> None:
    """Make ADMs and data sets from the unpacked packages in PHOTOGRAPHS; keep checkpoints and results in OUT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    Demonstration(RECIPE, read_manifest(), photographs, out).run()


if __name__ == "__main__":
    main()
