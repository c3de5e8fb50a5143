"""What the demonstration model is made of, on the smallest scale; and the model that is shipped."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.support.tiny_training import TINY_PLAN, TINY_SIZE, TINY_UNET
from worker.datasets.dataset import read_dataset
from worker.model import load_model, verify
from worker.model.cards.editing import report_place
from worker.model.cards.registry import find_card
from worker.model.cards.schema import DiffusionConfig, StudentConfig
from worker.model.diffusion import SpacedDiffusion
from worker.model.loading import load_unet
from worker.model.verdicts.policy_files import load_policies
from worker.training.demonstration.__main__ import (
    ADM_CARD,
    LEARNED,
    NAME,
    RECIPE,
    SHOWN_SAMPLES,
    SPLITS,
    AdmRecipe,
    Demonstration,
    DemonstrationRecipe,
    eps_loss,
)
from worker.training.demonstration.photographs import Photograph
from worker.training.demonstration.synthesis import Faker
from worker.training.loop.checkpointing import CheckpointMismatchError
from worker.training.loop.distributed import ProcessGroup
from worker.training.pipeline import prepare
from worker.training.recipe import changed, read_recipe
from worker.training.request import TrainingRequest

SAMPLES = Path(__file__).parents[2] / "deploy" / "samples"
TINY_RECIPE = DemonstrationRecipe(
    image_size=TINY_SIZE,
    adms={
        "adm": AdmRecipe(TINY_UNET, TINY_PLAN),
        "unseen-adm": AdmRecipe(TINY_UNET.model_copy(update={"resblock_updown": False}), TINY_PLAN),
    },
    student=StudentConfig(backbone="mobilenet_v3_small", input_size=32),
    crops={"adm": 2, "train": 2, "validation": 1, "test": 1},
    seed=5,
)
Package = tuple[Path, tuple[Photograph, ...]]


@pytest.fixture(scope="module")
def made(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a whole run of the tiny recipe."""
    torch.set_num_threads(1)
    root, manifest = package
    out = tmp_path_factory.mktemp("demonstration")
    Demonstration(TINY_RECIPE, manifest, root, out).run()
    return out


def rows_of(made: Path, name: str) -> list[dict[str, str]]:
    with (made / f"{name}.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("name", ["images", "strong", "hard", "unseen-sampler", "unseen-adm"])
def test_every_fake_has_the_photograph_that_it_was_made_from_beside_it(made: Path, name: str) -> None:
    rows = rows_of(made, name)
    groups = {label: Counter(row["group"] for row in rows if row["label"] == label) for label in ("real", "fake")}
    assert groups["real"] == groups["fake"]
    assert read_dataset(made / f"{name}.csv").skipped == ()


def test_each_split_has_its_own_photographs(made: Path, package: Package) -> None:
    uses = {photograph.group: photograph.use for photograph in package[1]}
    rows = rows_of(made, "images")
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert all(SPLITS[uses[row["group"]]] == row["split"] for row in rows)


@pytest.mark.parametrize("name", ["strong", "hard", "unseen-sampler", "unseen-adm"])
def test_what_is_measured_apart_shares_the_photographs_of_the_test_split(made: Path, name: str) -> None:
    rows, images = rows_of(made, name), rows_of(made, "images")
    reals = [row["path"] for row in rows if row["label"] == "real"]
    assert reals == [row["path"] for row in images if (row["label"], row["split"]) == ("real", "test")]
    assert {row["split"] for row in rows} == {"test"}
    learned = {row["path"] for row in images if row["label"] == "fake"}
    assert not learned & {row["path"] for row in rows}


def test_kinds_are_made_in_turn_and_by_their_adm(made: Path) -> None:
    kinds = Counter(row["generator"] for row in rows_of(made, "images") if row["split"] == "train")
    assert set(kinds) == {"", *LEARNED}
    test = [row for row in rows_of(made, "images") if row["split"] == "test" and row["label"] == "fake"]
    unseen = [row for row in rows_of(made, "unseen-adm") if row["label"] == "fake"]
    assert [row["generator"] for row in test] == [row["generator"] for row in unseen]
    contents = [[(made / row["path"]).read_bytes() for row in rows] for rows in (test, unseen)]
    assert not set(contents[0]) & set(contents[1])


def test_the_loss_of_an_adm_is_that_of_its_noise() -> None:
    """A network that says nothing misses all of the noise; one that knows it, none."""
    x = torch.rand(4, 3, TINY_SIZE, TINY_SIZE) * 2 - 1
    noise = torch.from_numpy(np.random.default_rng(5).standard_normal(x.shape, dtype=np.float32))
    assert eps_loss(lambda _x, _t: 0 * noise, x, 20, seed=5) == pytest.approx(float(noise.square().mean()), rel=1e-5)
    assert eps_loss(lambda _x, _t: noise, x, 20, seed=5) == 0


def test_both_adms_are_measured_on_photographs_that_they_never_saw(made: Path) -> None:
    losses = json.loads((made / "adm-losses.json").read_text())
    assert set(losses) == {"adm", "unseen-adm"}
    assert all(set(found) == {"0", "20", "100", "300"} for found in losses.values())


def test_a_small_set_has_one_photograph_and_one_fake_of_each_group(made: Path) -> None:
    rows, all_rows = rows_of(made, "small"), rows_of(made, "images")
    assert [row for row in rows if row["split"] != "train"] == [row for row in all_rows if row["split"] != "train"]
    counts = Counter((row["group"], row["label"]) for row in rows if row["split"] == "train")
    assert set(counts) == {(row["group"], row["label"]) for row in all_rows if row["split"] == "train"}
    assert set(counts.values()) == {1}


def test_a_student_can_be_trained_with_the_adm(made: Path, tmp_path: Path) -> None:
    installed = find_card(ADM_CARD, made / "models")
    assert installed.card.demonstration
    assert verify(ADM_CARD, made / "models", device="cpu").problems == ()
    recipe = changed(read_recipe("demonstration"), "training", epochs=1, batch_size=4)
    recipe = changed(recipe, "student", input_size=32)
    request = TrainingRequest(
        made / "images.csv",
        ADM_CARD,
        tmp_path,
        tmp_path / "pairs",
        NAME,
        "Apache-2.0",
        recipe,
        made / "models",
        "cpu",
    )
    prepare(request, ProcessGroup()).run()
    card = load_model(NAME, device="cpu", models_dir=tmp_path).card
    assert card.demonstration
    assert card.notice == recipe.card.notice
    halves = load_file(tmp_path / f"{NAME}.student.safetensors")["student_head.2.weight"]
    assert halves.dtype == torch.float16


def test_a_second_run_changes_nothing(made: Path, package: Package) -> None:
    root, manifest = package
    names = sorted(path for path in made.rglob("*") if path.is_file())
    before = [path.read_bytes() for path in names]
    Demonstration(TINY_RECIPE, manifest, root, made).run()
    assert sorted(path for path in made.rglob("*") if path.is_file()) == names
    assert [path.read_bytes() for path in names] == before


def test_an_adm_that_was_broken_off_goes_on_with_its_own_settings_alone(package: Package, tmp_path: Path) -> None:
    root, manifest = package
    (tmp_path / "seconds.json").write_text('{"adm": 1000.0}')
    Demonstration(TINY_RECIPE, manifest, root, tmp_path).train_adm("adm")
    assert 1000 < json.loads((tmp_path / "seconds.json").read_text())["adm"] < 1100
    (tmp_path / "models" / f"{NAME}.adm.safetensors").unlink()
    other = AdmRecipe(TINY_UNET, replace(TINY_PLAN, learning_rate=2e-3))
    with pytest.raises(CheckpointMismatchError, match="was made with"):
        Demonstration(replace(TINY_RECIPE, adms={"adm": other}), manifest, root, tmp_path).train_adm("adm")


def test_the_bundled_weights_fit_strictly_and_are_small() -> None:
    verification = verify(NAME, device="cpu")
    adm, student = verification.files
    assert (verification.problems, verification.self_test) == ((), "passed")
    assert adm.stated == student.stated == ("sha256",)
    assert adm.size + student.size < 12_000_000


def test_the_bundled_card_is_of_the_recipe() -> None:
    card, recipe = find_card(NAME).card, read_recipe("demonstration")
    assert (card.demonstration, card.notice) == (True, recipe.card.notice)
    assert (card.image_size, card.precision) == (RECIPE.image_size, "fp32")
    assert RECIPE.adms["adm"].unet.model_dump().items() <= card.adm.model_dump().items()
    assert (card.student.backbone, card.student.input_size) == (recipe.student.backbone, recipe.student.input_size)


def test_the_bundled_card_is_what_its_training_left() -> None:
    """The report is of these weights, so that nobody evaluates the model on what it was trained on unawares."""
    card = find_card(NAME)
    report = json.loads(report_place(card.path, NAME).read_text(encoding="utf-8"))
    assert report["student"]["sha256"] == card.card.student.sha256
    assert report["recipe"] == read_recipe("demonstration").model_dump(mode="json")
    assert len(report["data"]["images"]["train"]) > 4000


def test_the_bundled_policy_is_of_the_bundled_weights() -> None:
    model = load_model(NAME, device="cpu")
    usable, problems = load_policies(find_card(NAME), model.weights_sha256, model.precision)
    assert (list(usable), problems) == (["demonstration"], ())


def test_the_card_states_what_was_measured_of_the_shipped_policy() -> None:
    """The figures that a demonstration needs to be believed at all; controls that would show it to be a trick."""
    found = find_card(NAME).card.evaluations
    by_policy = {"medium", "strong", "hard", "unseen-sampler", "unseen-adm"}
    assert {name: evaluation.policy for name, evaluation in found.items()} == {
        **dict.fromkeys(by_policy, "demonstration"),
        "medium-by-the-cards-threshold": None,
    }
    medium = found["medium"]
    assert medium.estimates["average_precision"][0] >= 0.90
    assert medium.estimates["balanced_accuracy"][0] >= 0.80
    assert 1 - medium.estimates["false_positive_rate"][0] >= 0.90
    assert medium.average_precision_of["file statistics alone"][0] <= 0.60
    assert medium.average_precision_of["PERMUTED-LABELS"][0] <= 0.60
    compared = {"IMAGE-ALONE", "NOISE-ALONE", "eps shuffled", "DIRE-RESNET50", "DISTILDIRE-RESNET50"}
    assert compared <= set(medium.average_precision_of)


def test_the_committed_page_is_of_the_shipped_weights_and_policy() -> None:
    page = (Path(__file__).parents[2] / "docs" / "demonstration-report.html").read_text(encoding="utf-8")
    model = load_model(NAME, device="cpu")
    usable, _ = load_policies(find_card(NAME), model.weights_sha256, model.precision)
    assert f"weights {model.weights_sha256}" in page
    assert f"threshold {usable['demonstration'].threshold:.4g}" in page
    assert find_card(NAME).card.evaluations["medium"].data_sha256 in page


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
