"""An evaluation's figures for the model's own card, so that they travel with the weights that they are of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from worker.evaluation.estimates import Estimate, Estimates
from worker.evaluation.report.schema import Report
from worker.model.cards.editing import write_section
from worker.model.cards.schema import CardEvaluation

_DIGITS = 4


def record_summary(card: Path, name: str, report: Report) -> None:
    """Write the figures of a report into the card file at `card`, as the section `evaluations.<name>`.

    Raises:
        ModelError, DiskFullError: as `write_section`.
    """
    fields = summary(report).model_dump(exclude_none=True)
    write_section(card, ("evaluations", name), fields, "Measured by `distildire evaluate --record`.")


def summary(report: Report) -> CardEvaluation:
    """Return the figures that a card states; those without an interval are left out."""
    return CardEvaluation(
        made_at=report.made_at,
        data_sha256=report.data.sha256,
        policy=report.policy.name if report.policy else None,
        threshold=round(report.overall.threshold, _DIGITS),
        reals=report.overall.reals,
        fakes=report.overall.fakes,
        groups=report.overall.groups,
        confidence=report.confidence,
        estimates=_known(report.overall.estimates),
        average_precision_of=_known(dict(_controls(report))),
    )


def _controls(report: Report) -> Iterator[tuple[str, Estimate]]:
    if report.controls:
        yield "labels dealt out anew", report.controls.chance
        yield "file statistics alone", report.controls.file_statistics
        for name, figures in (report.controls.ablations | report.controls.others).items():
            yield name, _precision(figures)
    for name, figures in report.robustness.items():
        yield f"after {name}", _precision(figures)
    for pair in report.formats.pairs if report.formats else ():
        yield f"reals {pair.reals}, fakes {pair.fakes}, {pair.history}", pair.average_precision
    if report.dire:
        yield "DIRE's error alone", report.dire.average_precision


def _precision(figures: Estimates) -> Estimate:
    return figures.estimates["average_precision"]


def _rounded(share: float) -> float:
    """Round to what a reader takes in, but nothing to a certainty."""
    told = round(share, _DIGITS)
    return share if told in {0, 1} else told


def _known(estimates: dict[str, Estimate]) -> dict[str, tuple[float, float, float]]:
    return {
        name: (_rounded(one.value), _rounded(one.low), _rounded(one.high))
        for name, one in estimates.items()
        if one.value is not None and one.low is not None and one.high is not None
    }
