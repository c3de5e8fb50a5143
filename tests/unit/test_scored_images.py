"""What was said of each image: as a list that a spreadsheet opens, and the worst mistakes."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.labelled_images import labelled
from worker.datasets.labelled_image import LabelledImage
from worker.evaluation.report.thumbnails import SHOWN, gallery
from worker.evaluation.scored_images import ScoredImage, false_alarms, misses, scored_images, scores_csv
from worker.model.verdicts.verdict import Verdict, sigmoid


def image(path: str, fake: bool, group: str = "", generator: str = "") -> LabelledImage:
    return labelled(Path(path), fake, generator, group)


def call(logit: float) -> Verdict:
    probability = sigmoid(logit)
    return Verdict("FAKE" if logit >= 1 else "INCONCLUSIVE" if logit >= 0 else "REAL", probability, probability)


def judged(*told: tuple[LabelledImage, float]) -> tuple[ScoredImage, ...]:
    logits = np.array([logit for _, logit in told])
    return scored_images([each for each, _ in told], logits, {}, [""] * len(told), call)


def test_each_image_has_its_line_in_the_datas_order() -> None:
    images = [image("b.png", True, "g", "sdxl"), image("a.png", False), image("c.png", False)]
    seen = ["training policy", "", "unknown"]
    found = scored_images(images, np.array([0.1, np.nan, -2.5]), {Path("a.png"): "corrupt_image: cut"}, seen, call)
    rows = list(csv.DictReader(io.StringIO(scores_csv(found), newline="")))
    assert [row["path"] for row in rows] == ["b.png", "a.png", "c.png"]
    assert rows[0] == {
        "path": "b.png",
        "label": "fake",
        "generator": "sdxl",
        "group": "g",
        "split": "test",
        "logit": "0.1",
        "probability": repr(sigmoid(0.1)),
        "verdict": "INCONCLUSIVE",
        "seen": "training policy",
        "skipped": "",
    }
    assert (rows[1]["logit"], rows[1]["verdict"], rows[1]["skipped"]) == ("", "", "corrupt_image: cut")
    assert (rows[2]["label"], float(rows[2]["logit"]), rows[2]["seen"]) == ("real", -2.5, "unknown")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0"])
def test_no_name_of_a_file_is_a_formula(name: str) -> None:
    text = scores_csv(judged((image(name, True, name, name), 0.0)))
    row = next(csv.DictReader(io.StringIO(text, newline="")))
    assert row["path"] == row["group"] == row["generator"] == f"'{name}"


def test_the_surest_mistakes_come_first_and_each_group_once() -> None:
    found = judged(
        (image("right.png", True), 3.0),
        (image("sure.png", False, "a"), 5.0),
        (image("crop.png", False, "a"), 4.0),
        (image("at-the-threshold.png", False), 1.0),
        (image("below.png", False), np.nextafter(1.0, 0)),
        (image("missed.png", True), -5.0),
        (image("open.png", True), 0.5),
        (image("found.png", True), 1.0),
        (image("skipped.png", True), np.nan),
    )
    assert [each.image.path.name for each, _ in false_alarms(found)] == ["sure.png", "at-the-threshold.png"]
    assert [each.image.path.name for each, _ in misses(found)] == ["missed.png", "open.png"]


def test_a_gallery_has_small_copies_of_a_dozen_of_each(tmp_path: Path) -> None:
    told = []
    for number in range(2 * SHOWN + 6):
        path = tmp_path / f"{number}.png"
        Image.new("RGBA", (900, 300 + number), (number, 100, 200, 128)).save(path)
        told.append((image(str(path), number % 2 == 0), 3.0 if number % 2 else -3.0 - number))
    (tmp_path / "28.png").write_bytes(b"gone")
    found = gallery(judged(*told))
    assert (len(found.false_alarms), len(found.misses)) == (SHOWN, SHOWN)
    assert (found.false_alarms_in_all, found.misses_in_all) == (SHOWN + 3, SHOWN + 3)
    assert (found.misses[0].path, found.misses[0].picture) == (str(tmp_path / "28.png"), "")
    prefix, data = found.misses[1].picture.split(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert (prefix, picture.format, picture.size) == ("data:image/webp;base64", "WEBP", (160, 58))
        red, green, blue = picture.convert("RGB").resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]  # of RGB
    assert (abs(red - 26) < 6, abs(green - 100) < 6, abs(blue - 200) < 6) == (True, True, True)
