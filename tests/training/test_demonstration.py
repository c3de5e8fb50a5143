"""The one command from photographs to a usable model, on the smallest scale; and the model that is shipped."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_training import TINY_PLAN, TINY_SIZE, TINY_UNET
from worker.model import load_model, verify
from worker.model.card import BUNDLED, find_card
from worker.model.config import DiffusionConfig, StudentConfig
from worker.model.diffusion import SpacedDiffusion
from worker.model.loading import load_unet
from worker.training.dataset import Split, split_of
from worker.training.demonstration import NAME, PRECISION, RECIPE, SHOWN_SAMPLES, Demonstration, Recipe, provenance
from worker.training.fakes import Faker, PictureCounts
from worker.training.photographs import Photograph, read_manifest
from worker.training.recipe import StudentPlan

SAMPLES = Path(__file__).parents[2] / "deploy" / "samples"
TINY_RECIPE = Recipe(
    image_size=TINY_SIZE,
    unet=TINY_UNET,
    student=StudentConfig(backbone="mobilenet_v3_small", input_size=32),
    adm_plan=TINY_PLAN,
    student_plan=StudentPlan(epochs=1, batch_size=4),
    counts={split: PictureCounts(photographs=4, samples=2, sdedits=6, reconstructions=1) for split in get_args(Split)},
    copies=1,
    seed=5,
    compiled=False,
)
Package = tuple[Path, tuple[Photograph, ...]]


@pytest.fixture(scope="module")
def trained(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a whole run of the tiny recipe."""
    torch.set_num_threads(1)
    root, manifest = package
    out = tmp_path_factory.mktemp("demonstration")
    Demonstration(TINY_RECIPE, manifest, root, out).run()
    return out


def test_what_training_leaves_is_a_model_that_loads_and_judges(trained: Path) -> None:
    model = load_model(NAME, device="cpu", precision="fp32", models_dir=trained)
    assert model.card.demonstration
    result = model.analyze(trained / "sampled-1.png")
    assert result["prediction"] in {"REAL", "FAKE"}


def test_a_second_run_changes_nothing(trained: Path, package: Package) -> None:
    root, manifest = package
    names = [f"{NAME}.adm.safetensors", f"{NAME}.student.safetensors", "sampled-1.png", "pictures-test.npz"]
    before = [(trained / name).read_bytes() for name in names]
    Demonstration(TINY_RECIPE, manifest, root, trained).run()
    assert [(trained / name).read_bytes() for name in names] == before


def test_the_time_of_interrupted_runs_is_added_up(package: Package, tmp_path: Path) -> None:
    root, manifest = package
    (tmp_path / "seconds.json").write_text('{"adm": 1000.0}')
    Demonstration(TINY_RECIPE, manifest, root, tmp_path).train_adm()
    assert 1000 < json.loads((tmp_path / "seconds.json").read_text())["adm"] < 1100


def test_a_changed_recipe_does_not_go_on_from_the_old_checkpoint(trained: Path, package: Package) -> None:
    root, manifest = package
    changed = replace(TINY_RECIPE, adm_plan=replace(TINY_PLAN, learning_rate=2e-3))
    with pytest.raises(Exception, match="was made with"):
        Demonstration(changed, manifest, root, trained).train_adm()


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """The evaluation that was made when the bundled model was."""
    found: dict[str, Any] = json.loads((BUNDLED / f"{NAME}.evaluation.json").read_text(encoding="utf-8"))
    return found


def test_the_bundled_weights_fit_strictly_and_are_small() -> None:
    verification = verify(NAME, device="cpu")
    adm, student = verification.files
    assert (verification.problems, verification.self_test) == ((), "passed")
    assert adm.stated == student.stated == ("sha256",)
    assert adm.size + student.size < 12_000_000


def test_the_bundled_card_claims_what_the_evaluation_found(report: dict[str, Any]) -> None:
    card = find_card(NAME).card
    assert card.provenance == provenance(report, RECIPE)
    assert card.threshold == report["both"]["threshold"]


def test_the_bundled_card_is_of_the_recipe(report: dict[str, Any]) -> None:
    card = find_card(NAME).card
    assert card.demonstration
    assert card.notice is not None
    assert "Demonstration model" in card.notice
    assert (card.image_size, card.precision) == (RECIPE.image_size, PRECISION)
    assert RECIPE.unet.model_dump().items() <= card.adm.model_dump().items()
    assert RECIPE.student.model_dump().items() <= card.student.model_dump().items()
    counts = {split: sum(split_of(row.group) == split for row in read_manifest()) for split in get_args(Split)}
    assert report["photographs"] == counts
    assert f"on {counts['train']} photographs" in card.notice


def test_the_bundled_weights_are_trained() -> None:
    """On photographs that it never saw, the ADM removes noise far better than one that predicts nothing."""
    unet = load_unet(find_card(NAME)).eval()
    photograph = np.asarray(Image.open(SAMPLES / "chelsea.png").convert("RGB").resize((64, 64)))
    x = torch.from_numpy(photograph.copy()).permute(2, 0, 1).float()[None] / 127.5 - 1
    alpha_bar = SpacedDiffusion(DiffusionConfig()).alpha_bars[5]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        eps = unet(alpha_bar**0.5 * x + (1 - alpha_bar) ** 0.5 * noise, torch.tensor([250]))[:, :3]
    assert (eps - noise).square().mean() < 0.15


def test_the_shipped_samples_come_from_the_bundled_adm() -> None:
    unet = load_unet(find_card(NAME)).to(memory_format=torch.channels_last).eval()
    faker = Faker(unet, SpacedDiffusion(DiffusionConfig()), RECIPE.image_size)
    made = faker.sample(SHOWN_SAMPLES, np.random.default_rng(RECIPE.seed))
    shipped = [np.asarray(Image.open(SAMPLES / f"sampled-{number}.png")) for number in range(1, SHOWN_SAMPLES + 1)]
    assert np.abs(made.astype(int) - np.stack(shipped)).mean() < 2  # other processors round otherwise, 20 times


def test_the_rights_of_every_shipped_picture_are_told() -> None:
    with (SAMPLES / "manifest.csv").open(newline="", encoding="utf-8") as lines:
        rows = {row["file"]: row for row in csv.DictReader(lines)}
    pictures = [path for path in SAMPLES.iterdir() if path.suffix in {".png", ".jpg"}]
    assert {path.name for path in pictures} == set(rows)
    assert all(row["license"] and row["author"] and row["kind"] in {"real", "fake"} for row in rows.values())
    assert [row["kind"] for row in rows.values()].count("real") >= 3
    assert sum(path.stat().st_size for path in pictures) < 1_700_000
