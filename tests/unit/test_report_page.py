"""The report's page tells the numbers of the report: tiles, tables, sentences, pictures; what is wrong comes first."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.support.pages import Element, points, read_page
from tests.support.reports import QUICK, dot_of, estimates, heads, mark_of, read, report, rows, section, written
from worker.evaluation.estimates import Estimate, HeldOutGenerator, estimates_of
from worker.evaluation.report.page import page
from worker.evaluation.report.schema import (
    Controls,
    DireError,
    FormatCell,
    FormatControl,
    FormatPair,
    PolicyUsed,
    SkippedFile,
)
from worker.evaluation.report.thumbnails import Exhibit, Gallery
from worker.evaluation.scored_images import ImageVerdict


def test_every_tile_has_its_own_figure() -> None:
    names = {
        "Average precision": "average_precision",
        "ROC-AUC": "roc_auc",
        "Fakes found": "true_positive_rate",
        "Real images classified as FAKE": "false_positive_rate",
        "Found at 1 % false alarms": "tpr_at_1_percent_fpr",
        "Accuracy": "accuracy",
        "Brier score": "brier",
        "Calibration error": "calibration_error",
    }
    told = report()
    own = told.overall.estimates | dict(zip(names.values(), estimates(1), strict=False))
    told = replace(told, overall=replace(told.overall, estimates=own))
    found = {
        tile.one("div", "name").text: (tile.one("div", "value").text, tile.one("div", "range").text)
        for tile in read(told).all("div", "tile")
    }
    expected = {}
    for title, name in names.items():
        each = told.overall.estimates[name]
        assert each.value is not None
        assert each.low is not None
        assert each.high is not None
        expected[title] = (f"{each.value:.3f}", f"{each.low:.3f} – {each.high:.3f}")
    assert found == expected


def test_tiles_tell_bounds_and_what_is_not_estimable() -> None:
    told = read(report(shift=20))
    found = {tile.one("div", "name").text: tile for tile in told.all("div", "tile")}
    assert re.fullmatch(r"≥ 0\.\d{3}", found["Fakes found"].one("div", "value").text)
    assert re.fullmatch(r"1 here, 0\.\d{3} – 1\.000", found["Fakes found"].one("div", "range").text)
    assert re.fullmatch(r"≥ 0\.\d{3}", found["ROC-AUC"].one("div", "value").text)
    assert re.fullmatch(r"≤ 0\.0\d\d", found["Real images classified as FAKE"].one("div", "value").text)
    assert "below 300" in found["Found at 1 % false alarms"].text
    assert re.match(
        r"Of 100 real images like these it classifies at most [\d.]+ as FAKE; .* finds at least [\d.]+\.",
        told.one("p", "says").text,
    )


def test_what_a_verdict_is_worth_is_not_told_of_few_verdicts() -> None:
    """Of 60 fakes one is found, and no real image is classified as FAKE: that is no precision of 100 %."""
    told = report()
    fake = np.arange(180) >= 120
    probabilities = np.where(np.arange(180) == 179, 0.9, 0.1 + np.arange(180) / 1000)
    few = estimates_of(probabilities, fake, np.arange(180).astype(str), 0.5, QUICK)
    assert (few.estimates["true_positive_rate"].value, few.estimates["false_positive_rate"].value) == (1 / 60, 0)
    whole = read(replace(told, overall=few))
    table = rows(section(whole, "What a FAKE verdict is worth"))
    assert [row[0].text for row in table] == ["1 in 1,000", "1 in 100", "1 in 10"]
    for row in table:
        assert row[1].text.startswith("not estimable")
        assert row[1].text.endswith("– 100%"), "its interval says how little is known"
        assert row[2].all("circle") == []
    assert "100.0%" not in whole.text


def test_precisions_stand_beside_their_shares_of_fakes() -> None:
    told = report(threshold=0.3)
    table = rows(section(read(told), "What a FAKE verdict is worth"))
    names = ["precision_at_0.1_percent", "precision_at_1_percent", "precision_at_10_percent"]
    assert [row[1].text for row in table] == [written(told.overall.estimates[name], percent=True) for name in names]
    values = [told.overall.estimates[name].value for name in names]
    assert [dot_of(row[2]) for row in table] == pytest.approx(values, abs=1e-3)
    assert values == sorted(values, key=lambda value: value or 0)


def test_the_sentence_tells_the_rates() -> None:
    told = report()
    alarms, found = (told.overall.estimates[name] for name in ("false_positive_rate", "true_positive_rate"))

    def percent(number: float | None) -> str:
        return f"{100 * (number or 0):.3g}"

    expected = " ".join(
        f"{words} about {percent(each.value)} ({percent(each.low)} to {percent(each.high)}){end}"
        for words, each, end in (
            ("Of 100 real images like these it classifies", alarms, " as FAKE;"),
            ("of 100 such fakes it finds", found, "."),
        )
    )
    assert read(told).one("p", "says").text == expected


@pytest.mark.parametrize(
    ("title", "first"), [("Generator by generator", "generator"), ("After what platforms do to images", "change")]
)
def test_rows_of_figures_have_the_columns_of_their_heads(title: str, first: str) -> None:
    told = report()
    whole = section(read(told), title)
    assert heads(whole)[:6] == [
        first,
        "fakes",
        "average precision",
        "ROC-AUC",
        "fakes found",
        "real images classified as FAKE",
    ]
    sets = told.generators if first == "generator" else {"as they are": told.overall, **told.robustness}
    table = rows(whole)
    assert [row[0].text for row in table] == list(sets)
    for row, each in zip(table, sets.values(), strict=True):
        names = ("average_precision", "roc_auc", "true_positive_rate", "false_positive_rate")
        expected = [written(each.estimates[name], percent=at > 1) for at, name in enumerate(names)]
        assert [cell.text for cell in row[1:6]] == [f"{each.fakes:,}", *expected]
        assert dot_of(row[6]) == pytest.approx(each.estimates["roc_auc"].value, abs=1e-3)
        assert mark_of(row[6]) == pytest.approx(told.overall.estimates["roc_auc"].value, abs=1e-3)


def test_generators_left_out_have_their_rates() -> None:
    told = report()
    rates = dict(zip(("true_positive_rate", "false_positive_rate", "balanced_accuracy"), estimates(2), strict=False))
    told = replace(told, left_out={"sdxl": HeldOutGenerator(20, [0.5], rates)})
    (row,) = rows(section(read(told), "A generator nobody knew of"))
    expected = [written(each, percent=at < 2) for at, each in enumerate(rates.values())]
    assert [cell.text for cell in row[:5]] == ["sdxl", "20", *expected]
    assert dot_of(row[5]) == pytest.approx(rates["balanced_accuracy"].value, abs=1e-3)
    assert mark_of(row[5]) == pytest.approx(0.5, abs=1e-3)


def test_controls_have_their_figures_and_chance_is_marked() -> None:
    told = report()
    chance, by_file = Estimate(0.33, 0.25, 0.41), Estimate(0.39, 0.31, 0.52)
    controls = Controls(chance, by_file, False, {"eps zeroed": told.overall}, {"OTHER": told.generators["sdxl"]})
    whole = read(replace(told, controls=controls))
    table = {row[0].text: row for row in rows(section(whole, "Does it see what it claims?"))}
    expected = {
        "the model": told.overall.estimates["average_precision"],
        "eps zeroed": told.overall.estimates["average_precision"],
        "OTHER": told.generators["sdxl"].estimates["average_precision"],
        "file statistics only": by_file,
        "chance": chance,
    }
    assert list(table) == list(expected)
    for name, each in expected.items():
        assert table[name][1].text == written(each), name
        assert dot_of(table[name][2]) == pytest.approx(each.value, abs=1e-3), name
        assert mark_of(table[name][2]) == pytest.approx(0.33, abs=1e-3), name
    assert "nothing shows" in table["file statistics only"][3].text
    assert whole.all("p", "alarm") == []


def test_files_that_give_labels_away_are_told_above_all_else() -> None:
    controls = Controls(Estimate(0.5, 0.41, 0.59), Estimate(0.973, 0.94, 0.99), True, {}, {})
    whole = read(report(controls=controls))
    first = whole.one("main").elements[0]
    assert {"banner", "alarm"} <= first.classes
    assert "The files give their labels away." in first.text
    assert "0.973 on these images (0.940 – 0.990); chance is 0.500" in first.text
    assert "labels away, and all other figures are suspect" in whole.text


def test_formats_and_dire_have_their_figures() -> None:
    one, two, three, four, five, six, *_ = estimates(3)
    cells = [FormatCell("as stored", "as it is", one, two), FormatCell("JPEG", "resized", three, four)]
    pairs = [FormatPair("as stored", "JPEG", "resized", five)]
    told = replace(report(), formats=FormatControl(cells, pairs), dire=DireError(six, one))
    whole = read(told)
    below = section(whole, "Does the verdict follow the file format?")
    assert [[cell.text for cell in (*row[:3], row[4])] for row in rows(below)] == [
        ["as stored", "as it is", written(one, percent=True), written(two, percent=True)],
        ["JPEG", "resized", written(three, percent=True), written(four, percent=True)],
    ]
    assert [dot_of(row[at]) for row in rows(below) for at in (3, 5)] == pytest.approx(
        [each.value for each in (one, two, three, four)], abs=1e-3
    )
    (row,) = rows(below[-1:])
    assert [cell.text for cell in row[:4]] == ["as stored", "JPEG", "resized", written(five)]
    model, dire = rows(section(whole, "Beside DIRE"))
    found = told.overall.estimates
    assert [cell.text for cell in model if cell.text] == [
        "the model",
        written(found["average_precision"]),
        written(found["roc_auc"]),
    ]
    assert [cell.text for cell in dire if cell.text] == ["DIRE's error", written(six), written(one)]


def curve_points(chart: Element, css: str) -> list[tuple[float, float]]:
    """A curve in numbers, by the ticks of its axes; curves of generators are thin."""
    told = chart.all("text", "tick")
    below = {each.text: each.number("x") for each in told if each.attributes["text-anchor"] == "middle"}
    beside = {each.text: each.number("y") - 4 for each in told if each.attributes["text-anchor"] == "end"}
    return [
        ((x - below["0"]) / (below["1"] - below["0"]), (y - beside["0"]) / (beside["1"] - beside["0"]))
        for x, y in points(chart.all("path", css)[-1].attributes["d"])
    ]


def test_charts_draw_the_reports_curves_on_axes_of_their_own() -> None:
    told = report()
    figures_ = {figure.one("h3").text: figure for figure in read(told).all("figure") if figure.all("h3")}
    axes = {title: [label.text for label in figure.all("text", "label")] for title, figure in figures_.items()}
    assert axes == {
        "ROC": ["real images classified as FAKE", "fakes found"],
        "Precision and recall": ["fakes found (recall)", "FAKE verdicts that are right (precision)"],
        "Reliability": ["stated probability of being fake", "share of fakes"],
        "Probabilities": ["stated probability of being fake", "share of the class"],
    }

    def compare(title: str, css: str, expected: list[tuple[float, float]]) -> None:
        found = np.array(curve_points(figures_[title].one("svg"), css))
        np.testing.assert_allclose(found, np.array(expected), atol=1e-3)

    compare("ROC", "curve all", told.curves.roc)
    compare("ROC", "curve one", told.generators_roc["sdxl"])
    compare("Precision and recall", "curve all", told.curves.precision_recall)
    compare("Precision and recall", "reference", [(0, 60 / 180), (1, 60 / 180)])
    compare("Reliability", "curve all", [(each.mean_probability, each.share_fake) for each in told.curves.reliability])
    heights = [bar.number("height") for bar in figures_["Probabilities"].all("rect", "bar real")]
    shares = told.curves.histogram.reals
    assert [height / max(heights) for height in heights] == pytest.approx(
        [share / max(shares) for share in shares], abs=1e-3
    )
    assert len(figures_["Probabilities"].all("path", "mark")) == 1
    assert "60 of 180 images" in figures_["Precision and recall"].text


def test_a_policys_band_is_told_with_its_intervals() -> None:
    policy = PolicyUsed("strict", 1.5, 0.1, 0.4, Estimate(0.05, 0.019, 0.11), Estimate(0.0, 0.0, 0.06), 0)
    whole = read(replace(report(), policy=policy))
    assert "of 100 real images about 5 (1.9 to 11), of 100 fakes at most 6." in whole.text
    marks = next(figure for figure in whole.all("figure") if figure.text.startswith("Probabilities")).all(
        "path", "mark"
    )
    ticks = {tick.text: tick.number("x") for tick in whole.all("text", "tick")}
    places = [(points(mark.attributes["d"])[0][0] - ticks["0"]) / (ticks["1"] - ticks["0"]) for mark in marks]
    assert places == pytest.approx([0.5, 0.4], abs=1e-3)


def test_the_gallery_shows_scores_and_paths() -> None:
    picture = "data:image/webp;base64,UklGRg=="
    alarms = tuple(Exhibit(f"{number}<b>.png", "", ImageVerdict(9.0, 0.99999, "FAKE"), picture) for number in range(12))
    missed = (Exhibit("a.png", "<i>sdxl</i>", ImageVerdict(-1.0, 0.269, "INCONCLUSIVE"), ""),)
    whole = read(report(), Gallery(alarms, missed, 1234, 1))
    shown = section(whole, "The worst mistakes")
    assert [each.text for each in shown if each.tag == "h3"] == [
        "Real images classified as FAKE: 12 of 1,234",
        "Fakes not classified as FAKE: 1",
    ]
    shots = whole.all("figure", "shot")
    assert [shot.one("figcaption").text for shot in shots[:2]] == [">99.9%0<b>.png", ">99.9%1<b>.png"]
    assert shots[0].one("img").attributes["src"] == picture
    assert shots[12].text == "cannot be read any more26.9% · <i>sdxl</i> · INCONCLUSIVEa.png"
    assert [each.text for each in section(read(report()), "The worst mistakes") if each.tag == "p"][1:] == 2 * [
        "There are no such mistakes."
    ]


def test_the_page_is_small_and_needs_nothing_else() -> None:
    """A thousand generators, a hundred thousand files that were skipped, two dozen pictures of noise."""
    told = report()
    names = [f"generator-{number}" for number in range(1000)]
    told = replace(
        told,
        generators=dict.fromkeys(names, told.overall) | {"largest": replace(told.overall, fakes=10**6)},
        generators_roc=dict.fromkeys([*names, "largest"], told.curves.roc),
        left_out=dict.fromkeys(names, HeldOutGenerator(20, [0.5], told.overall.estimates)),
        data=replace(
            told.data, skipped=[SkippedFile(f"/data/{number}.png", "corrupt_image") for number in range(10**5)]
        ),
    )
    picture = f"data:image/webp;base64,{'A' * 25_000}"  # as of noise, 160 pixels wide
    exhibits = tuple(Exhibit("x" * 250, "sdxl", ImageVerdict(9.0, 0.99, "FAKE"), picture) for _ in range(12))
    html = page(told, Gallery(exhibits, exhibits, 12, 12))
    assert len(html.encode()) < 1_500_000
    whole = read_page(html)
    assert "largest" in [row[0].text for row in rows(section(whole, "Generator by generator"))]
    assert "961 generators with fewer fakes are in report.json" in whole.text
    assert "99,900 more" in whole.text
    assert all(each.attributes["src"].startswith("data:") for each in whole.all("img"))
    assert not re.findall(r"href=|url\(|@import|<script|<link", html)


def test_no_figure_is_written_as_a_certainty() -> None:
    for told in (report(shift=20), report(shift=0, threshold=1.1), report(fakes=3, shift=20)):
        whole = read(told)
        for value in whole.all("div", "value"):
            assert value.text not in {"1.000", "0.000", "1", "0"}
        for row in whole.all("tr"):
            assert not any(re.match(r"(?:100%|0%|1\.000|0\.000)", cell.text) for cell in row.all("td"))
        assert not re.findall(r"\b(?:100\.0%|0\.0%)", whole.text)
        assert not re.findall(r"\bnan\b|\bNone\b", whole.text)
