"""`distildire analyze` as a person calls it: in a process of its own, where nothing has been imported before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from deploy.cli import main
from shared.percentages import percent, probability_percent
from tests.support.tiny_model import NAME, write_model
from tests.support.tiny_policy import write_tiny_policies, write_tiny_policy
from worker.imaging.perturbations import PERTURBATIONS
from worker.model import load_model
from worker.model.verdicts.assessment import assess


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.radial_gradient("L").convert("RGB").resize((60, 40)).save(path)
    return path


def analyze(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder` with the tiny model, whose card calls itself a demonstration."""
    models = folder / "models"
    models.mkdir(exist_ok=True)
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


def test_files_of_one_name_and_of_a_very_long_one_keep_their_pictures(photo: Path, tmp_path: Path):
    files = [tmp_path / "one/x.jpg", tmp_path / "two/x.jpg", tmp_path / f"{'a' * 251}.jpg"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(photo.read_bytes())
    done = analyze("--visualize", tmp_path / "pictures", *files, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "pictures").iterdir())) == 9


def test_json_is_one_document_for_each_image_whatever_becomes_of_it(photo: Path, tmp_path: Path):
    plain = analyze("--json", photo, folder=tmp_path)
    assert "heatmap_scores" not in json.loads(plain.stdout)  # a number a pixel is for who asks for them

    done = analyze("--json", "--scores", photo, tmp_path / "missing.jpg", __file__, folder=tmp_path)

    judged, missing, refused = [json.loads(line) for line in done.stdout.splitlines()]
    assert judged["file"] == str(photo)
    assert judged["dimensions"] == {"width": 60, "height": 40}
    assert (len(judged["heatmap_scores"]), len(judged["heatmap_scores"][0])) == (40, 60)
    assert missing["error"] == {"code": "unreadable_file", "message": "No such file or directory"}
    assert refused["error"]["code"] == "unsupported_media_type"
    assert done.returncode == 1


def test_ctrl_c_leaves_what_was_judged(photo: Path, tmp_path: Path):
    gate = tmp_path / "gate.jpg"
    os.mkfifo(gate)
    models = tmp_path / "models"
    models.mkdir()
    arguments = ["--model", NAME, "--models-dir", str(write_model(models)), str(photo), str(gate), str(photo)]
    analyzing = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "deploy", "analyze", *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert analyzing.stdout is not None
    assert analyzing.stdout.readline().startswith(f"{photo}: ")
    with gate.open("wb"):  # it reads the second image, which never comes
        analyzing.send_signal(signal.SIGINT)
        told, said = analyzing.communicate(timeout=60)
    assert analyzing.returncode == 130
    assert "evidence, not proof" in told
    assert said.splitlines()[-1] == "Stopped."


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
    assert "Its policies: all-fake, doubtful." in " ".join(unknown.output.split())


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
    expected = assess(logits[0], 0.5, None, logits[1:]).stability
    assert expected is not None
    assert probed["stability"] == pytest.approx(asdict(expected), abs=1e-5)
    low, high = probed["stability"]["probability_min"], probed["stability"]["probability_max"]
    assert low < high
    flips, least, most = percent(expected.flip_rate), probability_percent(low, 1), probability_percent(high, 1)
    assert f"flip rate {flips}, probability of fake {least} to {most}" in line


def test_an_image_without_content_is_inconclusive_where_the_policy_has_a_band_and_its_pictures_are_flat(
    photo: Path, tmp_path: Path
):
    models = tmp_path / "models"
    models.mkdir()
    write_model(models)
    write_tiny_policy(models, name="banded", threshold=1e-6, inconclusive_from=0.0)
    blank, folder = tmp_path / "blank.png", tmp_path / "pictures"
    Image.new("RGB", (120, 80), "white").save(blank)
    arguments = ["analyze", "--model", NAME, "--models-dir", str(models), str(blank), str(photo)]

    plain = CliRunner().invoke(main, [*arguments, "--json", "--scores", "--visualize", str(folder)])
    banded = CliRunner().invoke(main, [*arguments, "--json", "--policy", "banded"])
    told = CliRunner().invoke(main, [*arguments, "--policy", "banded"]).stdout

    empty, full = [json.loads(line) for line in banded.stdout.splitlines()]
    assert (empty["prediction"], full["prediction"]) == ("INCONCLUSIVE", "FAKE")
    [without_band, _] = [json.loads(line) for line in plain.stdout.splitlines()]
    assert without_band["prediction"] == ("FAKE" if without_band["probability_fake"] >= 0.5 else "REAL")
    for document in (empty, without_band):
        assert len([caveat for caveat in document["caveats"] if "almost no content" in caveat]) == 1
    assert not any("almost no content" in caveat for caveat in full["caveats"])
    assert f"\n{blank}: The image has almost no content (" in told.replace(",\n", ", ")
    heat = {stem: np.asarray(Image.open(folder / f"{stem}.heatmap.png").convert("RGB")) for stem in ("blank", "photo")}
    assert len(np.unique(heat["blank"].reshape(-1, 3), axis=0)) == 2, "one colour, and the grey of what was not seen"
    assert len(np.unique(heat["photo"].reshape(-1, 3), axis=0)) > 100
    assert np.ptp(without_band["heatmap_scores"]) > 0.9, "the numbers stay as published"


def test_a_folder_for_pictures_that_cannot_be_made_is_told_before_the_work(photo: Path, tmp_path: Path):
    done = analyze(photo, "--visualize", photo / "pictures", folder=tmp_path)

    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{photo / 'pictures'}: Not a directory" in done.stderr
