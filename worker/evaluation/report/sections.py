"""The sections of the report's page that look closer: by generator, unknown generators, changes, controls, formats."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from worker.evaluation.estimates import Estimate, Estimates
from worker.evaluation.report.charts import interval_strip
from worker.evaluation.report.components import cell, table
from worker.evaluation.report.schema import Controls, DireError, FormatControl, Report

_GENERATORS_SHOWN = 40
_ABLATIONS = {
    "eps shuffled": "Each image with another image's noise map. If nothing falls, the noise map was not used.",
    "eps zeroed": "The image alone; the model was not trained for this.",
    "image zeroed": "The noise map alone; the model was not trained for this.",
}


def largest(generators: dict[str, Estimates]) -> list[str]:
    """Return the generators of which there are most fakes, in the order given, so that the page stays small."""
    kept = sorted(generators, key=lambda name: -generators[name].fakes)[:_GENERATORS_SHOWN]
    return [name for name in generators if name in kept]


def generators_section(report: Report) -> str:
    """Return the figures of each generator's fakes."""
    shown = {name: report.generators[name] for name in largest(report.generators)}
    more = len(report.generators) - len(shown)
    left = f'<p class="soft">{more:,} generators with fewer fakes are in report.json.</p>' if more else ""
    return (
        "<h2>Generator by generator</h2>"
        '<p class="under">All real images with the fakes of one generator. The picture shows the ROC-AUC; the dashed '
        "mark is that of all generators together. The average precision falls with the share of fakes, "
        "which differs from row to row.</p>" + figures_table("generator", shown, report.overall) + left
    )


def held_out_section(report: Report) -> str:
    """Return what thresholds do that were chosen without a generator; nothing where there is one alone."""
    if not report.left_out:
        return ""
    rows = [
        (
            escape(name),
            f"{found.fakes:,}",
            cell(found.estimates["true_positive_rate"], percent=True),
            cell(found.estimates["false_positive_rate"], percent=True),
            cell(found.estimates["balanced_accuracy"]),
            interval_strip(found.estimates["balanced_accuracy"], 0.5),
        )
        for name, found in report.left_out.items()
        if name in largest(report.generators)
    ]
    return (
        "<h2>A generator nobody knew of</h2>"
        '<p class="under">The threshold was chosen on all other generators and on other real images: what to expect '
        "when a new generator appears. (Whether the model itself was trained on it, its card says.)</p>"
        + table(
            ("generator held out", "fakes", "fakes found", "real images classified as FAKE", "balanced accuracy", ""),
            rows,
        )
    )


def robustness_section(report: Report) -> str:
    """Return the figures of changed images; nothing where they were not asked for."""
    if not report.robustness:
        return ""
    return (
        "<h2>After what platforms do to images</h2>"
        '<p class="under">The original was changed before the model saw it; the threshold stayed. The dashed mark is '
        "the ROC-AUC without a change.</p>"
        + figures_table("change", {"as they are": report.overall, **report.robustness}, report.overall)
    )


def controls_section(controls: Controls, whole: Estimate) -> str:
    """Return the controls; `whole`: the model's average precision."""
    rows = [_control_row("the model", whole, "As a service uses it.", controls.chance)]
    rows += [
        _control_row(name, figures.estimates["average_precision"], _ABLATIONS.get(name, ""), controls.chance)
        for name, figures in controls.ablations.items()
    ]
    rows += [
        _control_row(name, figures.estimates["average_precision"], "Another model on the same images.", controls.chance)
        for name, figures in controls.others.items()
    ]
    rows.append(
        _control_row(
            "file statistics only",
            controls.file_statistics,
            "Format, size and quantisation of the file, no pixel. "
            + (
                "Well above chance: the data give their labels away, and all other figures are suspect."
                if controls.labels_leak
                else "Not well above chance: nothing shows that files give labels away."
            ),
            controls.chance,
        )
    )
    rows.append(_control_row("chance", controls.chance, "Labels shuffled: no property of the model.", controls.chance))
    return (
        "<h2>Does it see what it claims?</h2>"
        '<p class="under">Average precision on the same images; the dashed mark is chance.</p>'
        + table(("control", "average precision", "", "how to read it"), rows, words=3)
    )


def _control_row(name: str, estimate: Estimate, words: str, chance: Estimate) -> Sequence[str]:
    return escape(name), cell(estimate), interval_strip(estimate, chance.value), escape(words)


def dire_section(dire: DireError, overall: Estimates) -> str:
    """Return the model beside DIRE's reconstruction error."""
    told = {
        "the model": (overall.estimates["average_precision"], overall.estimates["roc_auc"]),
        "DIRE's error": (dire.average_precision, dire.roc_auc),
    }
    rows = [
        (escape(name), cell(precision), interval_strip(precision), cell(area), interval_strip(area, 0.5))
        for name, (precision, area) in told.items()
    ]
    return (
        "<h2>Beside DIRE</h2>"
        '<p class="under">The mean difference between an image and its reconstruction by the diffusion model, without '
        "a classifier: forty passes instead of one.</p>"
        + table(("score", "average precision", "", "ROC-AUC", ""), rows)
    )


def formats_section(formats: FormatControl) -> str:
    """Return the format control."""
    cells = [
        (
            each.format,
            each.history,
            cell(each.reals_called_fake, percent=True),
            interval_strip(each.reals_called_fake),
            cell(each.fakes_called_fake, percent=True),
            interval_strip(each.fakes_called_fake),
        )
        for each in formats.cells
    ]
    pairs = [
        (pair.reals, pair.fakes, pair.history, cell(pair.average_precision), interval_strip(pair.average_precision))
        for pair in formats.pairs
    ]
    return (
        "<h2>Does the verdict follow the file format?</h2>"
        '<p class="under">Every image as it is stored and as a JPEG, with and without resizing; JPEG qualities are '
        "drawn alike for both classes. As stored, images keep the traces of their own files.</p>"
        + table(("format", "size", "real images classified as FAKE", "", "fakes found", ""), cells)
        + '<p class="under">And crossed. Where real images and fakes are JPEG, formats tell least: that row is the one '
        "to read. If another is much better, the detector sees formats.</p>"
        + table(("photographs", "fakes", "size", "average precision", ""), pairs)
    )


def figures_table(first: str, rows: dict[str, Estimates], overall: Estimates) -> str:
    """Return a table of figures by what they are of; drawn is the ROC-AUC, which no share of fakes moves."""
    whole = overall.estimates["roc_auc"].value
    columns: Sequence[tuple[str, bool]] = (
        ("average_precision", False),
        ("roc_auc", False),
        ("true_positive_rate", True),
        ("false_positive_rate", True),
    )
    told = [
        (
            escape(name),
            f"{figures.fakes:,}",
            *(cell(figures.estimates[column], percent=percent) for column, percent in columns),
            interval_strip(figures.estimates["roc_auc"], whole),
        )
        for name, figures in rows.items()
    ]
    heads = (first, "fakes", "average precision", "ROC-AUC", "fakes found", "real images classified as FAKE", "")
    return table(heads, told)
