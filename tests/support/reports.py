"""An evaluation's report of made scores, without a model, and where its page tells what."""

from __future__ import annotations

import itertools

import numpy as np

from shared.domain import ModelIdentity
from tests.support.pages import Element, points, read_page
from worker.evaluation.curves import curves, roc
from worker.evaluation.estimates import Estimate, Estimates, Resampling, estimates_of, held_out_generators
from worker.evaluation.report.page import page
from worker.evaluation.report.schema import SCHEMA, Controls, Data, Report
from worker.evaluation.report.thumbnails import Gallery
from worker.metrics.ranking import Floats, Labels
from worker.metrics.rounding import headline, spread

QUICK = Resampling(resamples=100)
NO_MISTAKES = Gallery((), (), 0, 0)


def estimates(seed: int) -> tuple[Estimate, ...]:
    """Ten figures, no two the same."""
    numbers = np.random.default_rng(seed).uniform(0.1, 0.8, 10).tolist()
    return tuple(Estimate(value, value - 0.0511, value + 0.0622) for value in numbers)


def report(*, fakes: int = 60, shift: float = 1.5, threshold: float = 0.5, controls: Controls | None = None) -> Report:
    """A report of 120 photographs and the fakes of two generators."""
    rng = np.random.default_rng(5)
    fake = np.arange(120 + fakes) >= 120
    generators = np.where(fake, np.where(np.arange(len(fake)) % 3 == 0, "sdxl", "<b>adm</b>"), "")
    probabilities: Floats = 1 / (1 + np.exp(-(rng.normal(size=len(fake)) + np.where(fake, shift, -shift))))
    groups = np.arange(len(fake)).astype(str)

    def of(chosen: Labels) -> Estimates:
        return estimates_of(probabilities[chosen], fake[chosen], groups[chosen], threshold, QUICK)

    names = sorted(set(generators[fake].tolist()))
    return Report(
        schema=SCHEMA,
        made_at="2026-11-30T12:00:00+00:00",
        seconds=12.3,
        confidence=0.95,
        resamples=100,
        seed=0,
        model=ModelIdentity("MODEL", "f" * 64, demonstration=False, device="cpu", precision="fp32"),
        policy=None,
        data=Data("data.csv", "test", "a" * 64, 0, 0, {"sdxl": 20, "<b>adm</b>": 40}, []),
        overall=of(np.ones_like(fake)),
        curves=curves(probabilities, fake),
        generators={name: of(~fake | (generators == name)) for name in names},
        generators_roc={
            name: roc(probabilities[~fake | (generators == name)], fake[~fake | (generators == name)]) for name in names
        },
        left_out=held_out_generators(probabilities, fake, generators, groups, QUICK),
        robustness={"blur": of(np.arange(len(fake)) % 2 == 0)},
        controls=controls,
        formats=None,
        dire=None,
    )


def read(told: Report, mistakes: Gallery = NO_MISTAKES) -> Element:
    return read_page(page(told, mistakes))


def section(whole: Element, title: str) -> list[Element]:
    """What follows a headline, up to the next."""
    below = whole.one("main").elements
    start = next(at for at, each in enumerate(below) if each.tag == "h2" and each.text == title)
    return list(itertools.takewhile(lambda each: each.tag != "h2", below[start + 1 :]))


def rows(elements: list[Element]) -> list[list[Element]]:
    """The cells of the first table among these."""
    table = next(table for each in elements for table in each.all("table"))
    return [row.all("td") for row in table.one("tbody").all("tr")]


def heads(elements: list[Element]) -> list[str]:
    table = next(table for each in elements for table in each.all("table"))
    return [head.text for head in table.one("thead").all("th")]


def written(estimate: Estimate, *, percent: bool = False) -> str:
    told = (estimate.value, estimate.low, estimate.high)
    return headline(*told, percent=percent) + spread(*told, percent=percent)


def dot_of(cell: Element) -> float:
    """The figure that a strip shows."""
    strip = cell.one("svg", "strip")
    start, end = (x for x, _ in points(strip.one("path", "grid").attributes["d"]))
    return (strip.one("circle").number("cx") - start) / (end - start)


def mark_of(cell: Element) -> float:
    strip = cell.one("svg", "strip")
    start, end = (x for x, _ in points(strip.one("path", "grid").attributes["d"]))
    return (points(strip.one("path", "mark").attributes["d"])[0][0] - start) / (end - start)
