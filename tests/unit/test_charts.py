"""The report's pictures draw the numbers that they are of: points, bars, ticks, axes and names."""

from __future__ import annotations

import itertools

import pytest

from tests.support.pages import Element, points, read_page
from worker.evaluation.curves import Bin, Histogram
from worker.evaluation.estimates import Estimate
from worker.evaluation.report.charts import Line, curve_chart, histogram_chart, interval_strip, reliability_chart

AXES = ("what lies to the right", "what goes up")
CURVE = [(0.0, 0.0), (0.1, 0.7), (0.25, 0.75), (1.0, 1.0)]
TICKS = [0, 0.25, 0.5, 0.75, 1]
PLACE = 0.05  # units of the drawing: it is written with one digit


def drawn(svg: str) -> Element:
    return read_page(svg).one("svg")


def tick_places(svg: Element) -> tuple[dict[float, float], dict[float, float]]:
    """Where the numbers stand: x by value of those below the frame, y by value of those beside it."""
    told = svg.all("text", "tick")
    below = {float(each.text): each.number("x") for each in told if each.attributes["text-anchor"] == "middle"}
    beside = {float(each.text): each.number("y") for each in told if each.attributes["text-anchor"] == "end"}
    return below, beside


class Scale:
    """From the drawing back to numbers, by what the axes say."""

    def __init__(self, svg: Element) -> None:
        below, beside = tick_places(svg)
        lines = [points(each.attributes["d"]) for each in svg.all("path", "grid")]
        rows = sorted({y for line in lines for _, y in line})
        self.left, self.right = below[0], below[1]
        self.bottom, self.top = rows[-1], rows[0]
        if beside:  # numbers stand beside their lines, a little lower
            assert [beside[tick] - 4 for tick in TICKS] == pytest.approx(rows[::-1])

    def value(self, place: tuple[float, float]) -> tuple[float, float]:
        x, y = place
        return (x - self.left) / (self.right - self.left), (y - self.bottom) / (self.top - self.bottom)

    def values(self, path: Element) -> list[tuple[float, float]]:
        return [self.value(place) for place in points(path.attributes["d"])]


def close(found: list[tuple[float, float]], expected: list[tuple[float, float]]) -> bool:
    return len(found) == len(expected) and all(
        a == pytest.approx(b, abs=2 * PLACE / 300) for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize(
    "svg",
    [
        curve_chart("title", AXES, [Line("all", CURVE, "all")]),
        reliability_chart("title", AXES, [Bin(1.0, 0.5, 0.5)]),
        histogram_chart("title", AXES, Histogram([1.0], [1.0]), []),
    ],
)
def test_axes_begin_at_0_end_at_1_and_say_what_they_are_of(svg: str) -> None:
    chart = drawn(svg)
    left, top, width, height = (float(number) for number in chart.attributes["viewbox"].split())
    assert (left, top, chart.attributes["aria-label"]) == (0, 0, "title")
    below, beside = tick_places(chart)
    assert list(below) == TICKS
    assert list(beside) in (TICKS, [])
    for places in filter(None, (below, beside)):
        steps = [b - a for a, b in itertools.pairwise(places.values())]
        assert steps == pytest.approx([steps[0]] * 4)
    assert below[1] - below[0] == pytest.approx(300)
    grid = [points(part) for part in chart.one("path", "grid").attributes["d"].replace("M", "|M").split("|") if part]
    uprights = [line for line in grid if line[0][0] == line[1][0]]
    levels = [line for line in grid if line[0][1] == line[1][1]]
    assert [line[0][0] for line in uprights] == pytest.approx(list(below.values()))
    assert sorted(abs(line[1][0] - line[0][0]) for line in levels) == pytest.approx([300] * 5)
    if beside:
        assert [line[0][1] + 4 for line in levels] == pytest.approx(list(beside.values()))
        assert beside[0] - beside[1] == pytest.approx(300)
    across, upright = chart.all("text", "label")
    assert (across.text, upright.text) == AXES
    assert ("transform" in across.attributes, upright.attributes["transform"]) == (False, "rotate(-90)")
    assert across.number("y") > max(y for line in grid for _, y in line)
    assert all(0 <= x <= width and 0 <= y <= height for line in grid for x, y in line)


def test_curves_go_through_their_points() -> None:
    other = [(0.0, 0.2), (1.0, 0.3)]
    chart = drawn(curve_chart("t", AXES, [Line("one <i>", other, "one"), Line("all", CURVE, "all")]))
    scale = Scale(chart)
    assert close(scale.values(chart.one("path", "curve all")), CURVE)
    assert close(scale.values(chart.one("path", "curve one")), other)
    assert [each.text for each in chart.all("title")] == ["one <i>", "all"]


@pytest.mark.parametrize(("chance", "line"), [(None, [(0, 0), (1, 1)]), (0.3, [(0, 0.3), (1, 0.3)])])
def test_the_dashed_line_is_chance(chance: float | None, line: list[tuple[float, float]]) -> None:
    chart = drawn(curve_chart("t", AXES, [], chance=chance))
    assert close(Scale(chart).values(chart.one("path", "reference")), line)


def test_dots_of_reliability_stand_at_stated_and_found() -> None:
    bins = [Bin(0.1, 0.05, 0.2), Bin(0.7, 0.4, 0.35), Bin(0.2, 0.9997, 1.0)]
    chart = drawn(reliability_chart("t", AXES, bins))
    scale, expected = Scale(chart), [(each.mean_probability, each.share_fake) for each in bins]
    assert close([scale.value((dot.number("cx"), dot.number("cy"))) for dot in chart.all("circle")], expected)
    assert close(scale.values(chart.one("path", "curve all")), expected)
    assert close(scale.values(chart.one("path", "reference")), [(0, 0), (1, 1)])
    assert [dot.one("title").text for dot in chart.all("circle")] == [
        "10.0% of the weight: stated 5.0%, fakes 20.0%",
        "70.0% of the weight: stated 40.0%, fakes 35.0%",
        "20.0% of the weight: stated >99.9%, fakes 100%",
    ]


def test_bars_are_as_high_as_their_shares() -> None:
    reals, fakes = [0.5, 0.25, 0.0, 0.25], [0.0, 0.05, 0.15, 0.8]
    chart = drawn(histogram_chart("t", AXES, Histogram(reals, fakes), [("FAKE from here", 0.6), ("open", 0.4)]))
    scale, middle = Scale(chart), points(chart.one("path", "axis").attributes["d"])[0][1]
    assert middle == pytest.approx((scale.top + scale.bottom) / 2)
    up, down = chart.all("rect", "bar real"), chart.all("rect", "bar fake")
    highest = max(bar.number("height") for bar in down)
    assert [bar.number("height") / highest * 0.8 for bar in up] == pytest.approx(reals, abs=1e-3)
    assert [bar.number("height") / highest * 0.8 for bar in down] == pytest.approx(fakes, abs=1e-3)
    assert 130 < highest <= 150, "the highest bar fills its half"
    assert [bar.number("y") + bar.number("height") for bar in up] == pytest.approx([middle] * 4, abs=2 * PLACE)
    assert [bar.number("y") for bar in down] == pytest.approx([middle] * 4, abs=PLACE)
    for number, bars in enumerate(zip(up, down, strict=True)):
        for bar in bars:
            left, right = (scale.value((bar.number("x") + width, 0))[0] for width in (0, bar.number("width")))
            assert number / 4 < left < number / 4 + 0.01
            assert (number + 1) / 4 - 0.01 < right < (number + 1) / 4
    assert [bar.text for bar in down] == [
        "0.00 to 0.25: 0%",
        "0.25 to 0.50: 5.0%",
        "0.50 to 0.75: 15.0%",
        "0.75 to 1.00: 80.0%",
    ]
    marks = [points(mark.attributes["d"]) for mark in chart.all("path", "mark")]
    assert close([scale.value(mark[0]) for mark in marks], [(0.6, 1), (0.4, 1)])
    assert close([scale.value(mark[1]) for mark in marks], [(0.6, 0), (0.4, 0)])
    names = {note.text: note for note in chart.all("text", "note")}
    assert set(names) == {"photographs", "fakes", "FAKE from here", "open"}
    assert names["photographs"].number("y") < middle < names["fakes"].number("y")
    assert "real" in names["photographs"].classes
    assert "fake" in names["fakes"].classes
    assert scale.value((names["open"].number("x"), 0))[0] == pytest.approx(0.4, abs=0.03)


def strip_places(estimate: Estimate, reference: float | None = None) -> tuple[list[float], list[float], list[float]]:
    """Where the dot, the ends of the interval and the reference lie, 0 to 1 from end to end of the line."""
    strip = drawn(interval_strip(estimate, reference))
    start, end = (x for x, _ in points(strip.one("path", "grid").attributes["d"]))

    def shares(places: list[float]) -> list[float]:
        return [(place - start) / (end - start) for place in places]

    dots = [dot.number("cx") for dot in strip.all("circle")]
    spans = [x for span in strip.all("path", "span") for x, _ in points(span.attributes["d"])]
    marks = [points(mark.attributes["d"])[0][0] for mark in strip.all("path", "mark")]
    return shares(dots), shares(spans), shares(marks)


def test_strips_show_figure_interval_and_reference() -> None:
    dots, span, marks = strip_places(Estimate(0.6, 0.45, 0.7), 0.5)
    assert dots == pytest.approx([0.6], abs=1e-3)
    assert span == pytest.approx([0.45, 0.7], abs=1e-3)
    assert marks == pytest.approx([0.5], abs=1e-3)


def test_a_strip_may_have_an_interval_alone_or_be_none() -> None:
    dots, span, _ = strip_places(Estimate(None, 0.0, 1.0))
    assert dots == []
    assert span == pytest.approx([0, 1])
    assert interval_strip(Estimate(None, None, None), 0.5) == ""
