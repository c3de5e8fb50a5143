"""`distildire analyze` as a person calls it: in a process of its own, where nothing has been imported before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from deploy.cli import main
from tests.tiny_model import NAME, write_model
from tests.tiny_policy import write_tiny_policies
from worker.model import load_model
from worker.model.ruling import rule
from worker.perturbations import PERTURBATIONS


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.radial_gradient("L").convert("RGB").resize((60, 40)).save(path)
    return path


def analyze(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder` with the tiny model, whose card calls itself a demonstration."""
    models = folder / "models"
    models.mkdir()
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", "analyze", "--model", NAME, *map(str, arguments)],
        env={**os.environ, "DISTILDIRE_MODELS_DIR": str(write_model(models))},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_image_gets_a_verdict_and_pictures(photo: Path, tmp_path: Path):
    done = analyze(photo, "--visualize", tmp_path / "pictures", folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith((f"{photo}: REAL ", f"{photo}: FAKE "))
    assert "evidence, not proof" in done.stdout
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "photo.dire_map.png",
        "photo.heatmap.png",
        "photo.overlay.png",
    }


def test_json_is_one_document_for_each_image_whatever_becomes_of_it(photo: Path, tmp_path: Path):
    done = analyze("--json", photo, tmp_path / "missing.jpg", __file__, folder=tmp_path)

    judged, missing, refused = [json.loads(line) for line in done.stdout.splitlines()]
    assert judged["file"] == str(photo)
    assert judged["dimensions"] == {"width": 60, "height": 40}
    assert (len(judged["heatmap_scores"]), len(judged["heatmap_scores"][0])) == (40, 60)
    assert missing["error"] == {"code": "unreadable_file", "message": "No such file or directory"}
    assert refused["error"]["code"] == "unsupported_media_type"
    assert done.returncode == 1


def test_a_policy_calls_the_verdicts_and_is_named(photo: Path, tmp_path: Path):
    models = tmp_path / "models"
    models.mkdir()
    write_tiny_policies(write_model(models))
    arguments = ["--model", NAME, "--models-dir", str(models), "--json", str(photo)]

    plain = CliRunner().invoke(main, ["analyze", *arguments])
    called = CliRunner().invoke(main, ["analyze", *arguments, "--policy", "doubtful"])
    unknown = CliRunner().invoke(main, ["analyze", *arguments, "--policy", "lax"])

    document = json.loads(called.stdout)
    assert (document["prediction"], document["threshold"]) == ("INCONCLUSIVE", 1.0)
    assert document["policy"]["fpr_interval"] == {"low": 0.001, "high": 0.012, "confidence": 0.95}
    assert document["raw_probability_fake"] == json.loads(plain.stdout)["probability_fake"]
    assert json.loads(plain.stdout)["policy"] is None
    assert document["input"] == {"media_type": "image/jpeg", "format": "JPEG", "jpeg_quality_estimate": 75}
    assert any("Only the middle 40 × 40 of 60 × 40" in caveat for caveat in document["caveats"])
    assert unknown.exit_code == 1
    assert "There are: all-fake, doubtful." in " ".join(unknown.output.split())


def test_small_changes_are_judged_where_that_is_asked(photo: Path, tmp_path: Path):
    models = tmp_path / "models"
    models.mkdir()
    write_model(models)
    arguments = ["analyze", "--model", NAME, "--models-dir", str(models), "--precision", "fp32", str(photo)]
    detector = load_model(NAME, "cpu", "fp32", models)
    with Image.open(photo) as opened:
        seen = [opened, *(change(opened) for change in PERTURBATIONS)]
        logits = [detector.detect(detector.preprocess(image)[None]).logit.item() for image in seen]

    plain = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    probed = json.loads(CliRunner().invoke(main, [*arguments, "--json", "--stability"]).stdout)
    line = CliRunner().invoke(main, [*arguments, "--stability"]).stdout

    assert plain["stability"] is None
    expected = rule(logits[0], 0.5, None, logits[1:]).stability
    assert expected is not None
    assert probed["stability"] == pytest.approx(asdict(expected), abs=1e-5)
    low, high = probed["stability"]["probability_min"], probed["stability"]["probability_max"]
    assert low < high
    assert f"flip rate {expected.flip_rate:.0%}, probability of fake {low:.3f} to {high:.3f}" in line


def test_a_folder_for_pictures_that_cannot_be_made_is_told_before_the_work(photo: Path, tmp_path: Path):
    done = analyze(photo, "--visualize", photo / "pictures", folder=tmp_path)

    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{photo / 'pictures'}: Not a directory" in done.stderr
