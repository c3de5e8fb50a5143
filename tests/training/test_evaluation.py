"""`distildire evaluate` and `distildire calibrate`, with a model whose verdicts mean nothing."""

from __future__ import annotations

import csv
import json
import logging
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file

from deploy.cli import main
from tests.support.pages import read_page
from tests.support.tiny_model import NAME, write_model
from tests.support.tiny_training import smooth_picture
from worker.evaluation.batch_cache import BatchCache, BatchResult
from worker.model import load_model
from worker.model.cards.registry import find_card
from worker.model.verdicts.policy_files import load_policy
from worker.model.verdicts.verdict import sigmoid
from worker.training.demonstration.photographs import Pixels

PICTURES = 24


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def data(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest: pictures without and with stripes, wide or narrow, a damaged and a missing file.

    The weights are random, so which of the two are the fakes is left to the model: those that it finds more fake.
    """
    folder = tmp_path_factory.mktemp("data")
    pictures = [smooth_picture(number) for number in range(PICTURES)]
    striped = [_striped(picture, number) for number, picture in enumerate(pictures)]
    stripes_are_fake = _mean_logit(models, striped) > _mean_logit(models, pictures)
    fakes, reals = (striped, pictures) if stripes_are_fake else (pictures, striped)
    lines = ["path,label,generator,group,split"]
    for number in range(PICTURES):
        split, generator = "test" if number % 2 else "validation", "wide" if number % 4 < 2 else "narrow"
        Image.fromarray(reals[number]).save(folder / f"real{number}.png")
        Image.fromarray(fakes[number]).save(folder / f"fake{number}.png")
        lines.append(f"real{number}.png,real,,g{number},{split}")
        lines.append(f"fake{number}.png,fake,{generator},g{number},{split}")
    (folder / "damaged.png").write_bytes((folder / "real0.png").read_bytes()[:80])
    lines += ["damaged.png,real,,g-damaged,test", "missing.png,fake,wide,g-missing,test"]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


def _striped(picture: Pixels, number: int) -> Pixels:
    striped = picture.copy()
    columns = striped[:, :: 6 if number % 4 < 2 else 2]
    columns[:] = np.clip(columns.astype(int) + 90, 0, 255)
    return striped


def _mean_logit(models: Path, pictures: list[Pixels]) -> float:
    detector = load_model(NAME, "cpu", "fp32", models)
    x = torch.stack([detector.preprocess(Image.fromarray(picture)) for picture in pictures])
    return detector.detect(x).logit.mean().item()


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def evaluated(models: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The folder of a whole evaluation, and what the command said."""
    out = tmp_path_factory.mktemp("out")
    arguments = (
        "--models-dir",
        models,
        "--out",
        out,
        "--resamples",
        100,
        "--compare",
        NAME,
        "--dire",
        "--device",
        "cpu",
        "--record",
        "held-out",
    )
    return out, call("evaluate", data, "--model", NAME, *map(str, arguments))


@pytest.fixture(scope="module")
def report(evaluated: tuple[Path, Result]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((evaluated[0] / "report.json").read_text())
    return found


def test_the_card_takes_the_figures_along(models: Path, report: dict[str, Any]) -> None:
    """What the report has is what the card says, controls included."""
    found = find_card(NAME, models).card.evaluations["held-out"]
    expected = report["overall"]["estimates"]["average_precision"]
    assert found.estimates["average_precision"] == pytest.approx(tuple(expected.values()), abs=1e-4)
    assert "tpr_at_1_percent_fpr" not in found.estimates  # not estimable
    assert {"file statistics alone", "eps zeroed", "after JPEG 50", "DIRE's error alone", NAME} <= set(
        found.average_precision_of
    )
    control = report["controls"]["file_statistics"]
    assert found.average_precision_of["file statistics alone"] == pytest.approx(tuple(control.values()), abs=1e-4)
    assert (found.reals, found.data_sha256) == (12, report["data"]["sha256"])
    shown = call("models", "show", NAME, "--models-dir", models)
    assert "measured: held-out" in shown.output
    assert "average precision, file statistics alone" in shown.output


def test_figures_are_not_recorded_under_a_name_that_a_card_cannot_have(models: Path, data: Path) -> None:
    result = call("evaluate", data, "--model", NAME, "--models-dir", models, "--record", "held out")
    assert result.exit_code == 2
    assert "--record takes" in result.output


def test_the_command_says_what_it_found(evaluated: tuple[Path, Result]):
    out, result = evaluated
    assert result.exit_code == 0, result.output
    assert "12 real images, 12 fakes" in result.output
    assert "not estimable" in result.output
    assert "2 files were skipped" in result.output
    assert str(out / "report.html") in result.output.replace("\n", "")
    assert str(out / "scores.csv") in result.output.replace("\n", "")
    assert "evidence, not proof" in result.output
    assert not re.search(r"[A-Za-z]  +(?:1\.000|0\.000|100%|0%)\b", result.output), "no figure is a certainty"


def test_the_report_has_every_part(report: dict[str, Any]):
    assert report["model"]["name"] == NAME
    assert report["data"]["generators"] == {"narrow": 6, "wide": 6}
    assert [Path(file["path"]).name for file in report["data"]["skipped"]] == ["damaged.png", "missing.png"]
    assert set(report["generators"]) == set(report["left_out"]) == {"narrow", "wide"}
    assert set(report["robustness"]) == {"JPEG 90", "JPEG 70", "JPEG 50", "half size", "blur", "crop"}
    assert set(report["controls"]["ablations"]) == {"eps shuffled", "eps zeroed", "image zeroed"}
    assert len(report["formats"]["cells"]) == 4
    assert len(report["formats"]["pairs"]) == 8
    assert report["overall"]["real_groups"] == 12
    assert 0 <= report["dire"]["roc_auc"]["low"] <= report["dire"]["roc_auc"]["value"] <= 1


def test_the_same_model_has_the_same_figures_as_another(report: dict[str, Any]):
    found = report["controls"]["others"][NAME]["estimates"]["average_precision"]["value"]
    assert found == pytest.approx(report["overall"]["estimates"]["average_precision"]["value"], abs=1e-6)
    unchanged = next(
        cell for cell in report["formats"]["cells"] if (cell["format"], cell["history"]) == ("as stored", "as it is")
    )
    assert unchanged["fakes_called_fake"] == report["overall"]["estimates"]["true_positive_rate"]


def test_what_files_give_away_is_found(report: dict[str, Any]):
    """All are PNGs of one size, but stripes compress otherwise: the control finds them."""
    assert report["controls"]["file_statistics"]["value"] > 0.9
    assert report["controls"]["chance"]["value"] == pytest.approx(0.55, abs=0.12)
    assert report["controls"]["labels_leak"] is True


def test_that_labels_leak_is_told_before_all_else(evaluated: tuple[Path, Result]):
    out, result = evaluated
    alarm = "The files give their labels away."
    assert result.stdout.lstrip().startswith(alarm)
    first = read_page((out / "report.html").read_text()).one("main").elements[0]
    assert first.text.startswith(alarm)


def test_each_image_has_its_scores(evaluated: tuple[Path, Result], report: dict[str, Any], data: Path, models: Path):
    with (evaluated[0] / "scores.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    with data.open(newline="", encoding="utf-8") as lines:
        listed = [row for row in csv.DictReader(lines) if row["split"] == "test" and "-" not in row["group"]]
    assert [(row["path"], row["label"], row["generator"], row["group"], row["split"]) for row in rows] == [
        (str(data.parent / row["path"]), *(row[name] for name in ("label", "generator", "group", "split")))
        for row in listed
    ]
    detector = load_model(NAME, "cpu", "auto", models)
    for row in rows[:4]:
        found = detector.detect(detector.preprocess(Image.open(row["path"]))[None]).logit.item()
        assert float(row["logit"]) == pytest.approx(found, abs=1e-3)
        assert float(row["probability"]) == pytest.approx(sigmoid(float(row["logit"])))
    assert {row["seen"] for row in rows} == {"unknown"}
    for label, rate in (("real", "false_positive_rate"), ("fake", "true_positive_rate")):
        called = [row["verdict"] == "FAKE" for row in rows if row["label"] == label]
        assert sum(called) / len(called) == report["overall"]["estimates"][rate]["value"]


def test_the_page_shows_the_worst_mistakes(evaluated: tuple[Path, Result], report: dict[str, Any]):
    page = read_page((evaluated[0] / "report.html").read_text())
    rates = report["overall"]["estimates"]
    wrong = 12 * (rates["false_positive_rate"]["value"] + 1 - rates["true_positive_rate"]["value"])
    shots = page.all("figure", "shot")
    assert len(shots) == round(wrong) > 0
    assert all(shot.one("img").attributes["src"].startswith("data:image/webp;base64,") for shot in shots)
    assert all(re.search(r"(?:real|fake)\d+\.png$", shot.text) for shot in shots)


def test_the_page_needs_nothing_else_and_shows_no_number_that_is_none(evaluated: tuple[Path, Result]):
    page = (evaluated[0] / "report.html").read_text()
    assert "<script" not in page
    assert len(page) < 1_500_000
    assert not re.findall(r'(?:src|href)="|url\(|@import', page)
    assert "not estimable below 300 independent real images" in page
    assert "demonstration model" in page
    assert "evidence, not proof" in page
    assert not re.search(r"\bnan\b|\bNone\b", page)
    assert page.count("<svg") > 30
    assert "damaged.png" in page


def test_names_from_files_are_escaped(models: Path, data: Path, tmp_path: Path):
    rows = data.read_text().replace(",wide,", ",<b>wide</b>,")
    manifest = data.with_name("escaped.csv")
    manifest.write_text(rows)
    skipped = [argument for part in ("robustness", "controls", "formats") for argument in ("--without", part)]
    result = call(
        "evaluate", manifest, "--model", models, "--out", tmp_path, "--resamples", "100", "--device", "cpu", *skipped
    )
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report.html").read_text()
    assert "<b>wide" not in page
    assert "&lt;b&gt;wide" in page
    assert "Does it see what it claims?" not in page
    assert "Beside DIRE" not in page


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on_from_there(
    models: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    noted: list[tuple[str, int]] = []
    note = BatchCache.note

    def note_and_stop(batch_cache: BatchCache, part: str, batch: int, judgement: BatchResult) -> None:
        note(batch_cache, part, batch, judgement)
        noted.append((part, batch))
        if len(noted) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(BatchCache, "note", note_and_stop)
    parts = ("--without", "robustness", "--without", "formats", "--without", "controls", "--resamples", "100")
    command = ("evaluate", data, "--model", NAME, "--models-dir", models, "--device", "cpu", *parts, "--out", tmp_path)
    stopped = call(*command)
    assert stopped.exit_code == 130
    assert f"The results so far are kept in {tmp_path}; the same command continues them." in stopped.stderr
    assert not (tmp_path / "report.json").exists()

    assert call(*command).exit_code == 0
    assert (tmp_path / "report.json").exists()
    assert len(set(noted)) == len(noted) > 2, "nothing was judged twice"


def test_a_policy_goes_from_calibration_to_evaluation(models: Path, data: Path, tmp_path: Path):
    policies = models / f"{NAME}.policies"
    common = ("--model", NAME, "--models-dir", models, "--device", "cpu")
    made = call("calibrate", data, "--name", "half", "--youden", "--split", "all", *common)
    assert made.exit_code == 0, made.output
    assert "real images classified as FAKE" in made.output
    written = tomllib.loads((policies / "half.toml").read_text())
    detector = load_model(NAME, "cpu", "auto", models)
    assert written["weights_sha256"] == detector.weights_sha256
    assert written["evidence"]["media_types"] == ["image/png"]
    assert load_policy("half", find_card(NAME, models), detector.weights_sha256, detector.precision).name == "half"

    arguments = ("--policy", "half", "--out", tmp_path, "--resamples", "100", "--without", "robustness")
    result = call("evaluate", data, *common, *arguments, "--without", "formats", "--without", "controls")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["policy"]["name"] == "half"
    assert report["overall"]["threshold"] == written["threshold"]

    again = call("calibrate", data, "--name", "half", "--youden", "--split", "all", *common)
    assert again.exit_code == 1
    assert "Choose another name" in again.output


def test_images_that_a_policy_was_made_of_are_counted(
    models: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """One by one, whatever their path and split, where their list lies beside the policy; else only if all are."""
    common = ("--model", NAME, "--models-dir", models, "--device", "cpu")
    made = call("calibrate", data, "--name", "known", "--youden", *common)
    assert made.exit_code == 0, made.output
    moved = Path(shutil.copytree(data.parent, tmp_path / "moved")) / data.name
    moved.write_text(moved.read_text().replace("validation", "train"))

    def shared(manifest: Path, split: str) -> tuple[int | None, str]:
        parts = ("--without", "robustness", "--without", "formats", "--without", "controls", "--resamples", "100")
        result = call(
            "evaluate", manifest, *common, *parts, "--policy", "known", "--split", split, "--out", tmp_path / "out"
        )
        assert result.exit_code == 0, result.output
        counted = json.loads((tmp_path / "out" / "report.json").read_text())["policy"]["seen_in_calibration"]
        with (tmp_path / "out" / "scores.csv").open(newline="") as lines:
            assert [row["seen"] for row in csv.DictReader(lines)].count("unknown policy") == (counted or 0)
        return counted, (tmp_path / "out" / "report.html").read_text()

    count, page = shared(data, "test")
    assert (count, "was made of" in page.partition("<h2>")[0]) == (0, False)
    with caplog.at_level(logging.WARNING):
        count, page = shared(moved, "all")
    assert count == 24
    assert "The policy was made of 24 of these 48 images" in page
    assert "The policy known was made of 24 of 48 images" in caplog.text

    (models / f"{NAME}.policies" / "known.images.json").unlink()
    count, page = shared(data, "all")
    assert count is None
    assert "not known: no list of the images that it was made of" in page
    assert shared(data, "validation")[0] == 24


def test_too_few_photographs_give_no_policy(models: Path, data: Path):
    result = call(
        "calibrate",
        data,
        "--name",
        "bold",
        "--target-fpr",
        "0.01",
        "--model",
        NAME,
        "--models-dir",
        models,
        "--device",
        "cpu",
    )
    assert result.exit_code == 1
    assert "needs at least 299 independent photographs; there are 12" in result.output
    assert "as they are" not in result.output, "no image was judged in vain"
    assert not (models / f"{NAME}.policies" / "bold.toml").exists()


def test_halves_with_too_few_fakes_are_refused_before_the_work(models: Path, data: Path):
    """Of the 24 groups 24 allow such a band; the half that measures it does not."""
    common = ("--model", NAME, "--models-dir", models, "--device", "cpu", "--split", "all")
    result = call("calibrate", data, "--name", "halves", "--youden", "--max-miss-rate", "0.2", *common)
    assert result.exit_code == 1
    assert "needs fakes of at least 14 independent groups; there are 12" in result.output
    assert "as they are" not in result.output, "no image was judged in vain"


def test_a_model_to_compare_may_be_a_folder_and_is_not_left_out_in_silence(models: Path, data: Path, tmp_path: Path):
    arguments = ("--out", tmp_path, "--resamples", "100", "--without", "robustness", "--without", "formats")
    common = ("evaluate", data, "--model", models, "--compare", models, "--device", "cpu", *arguments)
    refused = call(*common, "--without", "controls")
    assert (refused.exit_code, "one of the controls" in refused.output) == (2, True)
    compared = call(*common)
    assert compared.exit_code == 0, compared.output
    assert list(json.loads((tmp_path / "report.json").read_text())["controls"]["others"]) == [NAME]


def test_exactly_one_rule_is_wanted(models: Path, data: Path):
    both = call("calibrate", data, "--name", "x", "--target-fpr", "0.1", "--youden", "--models-dir", models)
    neither = call("calibrate", data, "--name", "x", "--models-dir", models)
    assert (both.exit_code, neither.exit_code) == (2, 2)


@pytest.mark.parametrize("name", ["../elsewhere", "", "two words", "default"])
def test_a_name_that_no_policy_may_have_is_refused_before_the_work(models: Path, name: str):
    result = call("calibrate", models, "--name", name, "--youden", "--models-dir", models)
    assert result.exit_code == 2
    assert "--name" in result.output


def test_a_split_without_images_is_named(models: Path, data: Path, tmp_path: Path):
    result = call("evaluate", data, "--split", "train", "--model", NAME, "--models-dir", models, "--out", tmp_path)
    assert result.exit_code == 1
    assert "no usable real image in the split 'train'" in result.output


def test_a_model_that_gives_no_numbers_is_not_taken_for_a_lack_of_images(models: Path, data: Path, tmp_path: Path):
    """A student whose numbers grow beyond what a float can be: all is skipped, and the message says why."""
    broken = Path(shutil.copytree(models, tmp_path / "broken"))
    weights = load_file(broken / "student.safetensors")
    weights["student_backbone.features.0.0.weight"][:] = 3e38
    save_file(weights, broken / "student.safetensors")
    result = call("evaluate", data, "--model", NAME, "--models-dir", broken, "--device", "cpu", "--out", tmp_path)
    assert result.exit_code == 1
    said = " ".join(result.output.split())
    assert "has no usable real image" in said
    assert said.count("the model gave no finite number") == 3
    assert "Skipped as well: 23 files." in said
