"""The report of an evaluation as one HTML page that needs nothing else: no script, no font, no picture from outside."""

from __future__ import annotations

from dataclasses import astuple
from html import escape
from pathlib import Path

from shared.percentages import confidence_level
from worker.evaluation.estimates import Estimate
from worker.evaluation.report.charts import Line, curve_chart, histogram_chart, interval_strip, reliability_chart
from worker.evaluation.report.components import cell, table, tile
from worker.evaluation.report.gallery import gallery_section
from worker.evaluation.report.schema import Data, PolicyUsed, Report
from worker.evaluation.report.sections import (
    controls_section,
    dire_section,
    formats_section,
    generators_section,
    held_out_section,
    largest,
    robustness_section,
)
from worker.evaluation.report.thumbnails import Gallery
from worker.metrics.ranking import ESTIMABLE_REALS, PREVALENCES
from worker.metrics.rounding import rounded, spread

_STYLE = Path(__file__).with_name("report.css")
_HONEST = (
    "On the dashed line, of all images with a probability of 70 % of being fake, 70 % are, where fakes are as many as "
    "real images: both weigh the same here, and each dot is a tenth of the weight. Where fakes are rarer, fewer are."
)
_SKIPPED_SHOWN = 100
_NOT_ESTIMABLE = f"not estimable below {ESTIMABLE_REALS} independent real images"


def page(report: Report, mistakes: Gallery) -> str:
    """Return the page."""
    sections = [
        _alarm(report),
        _head(report),
        _summary(report),
        _charts(report),
        gallery_section(mistakes),
        generators_section(report),
        held_out_section(report),
        robustness_section(report),
        controls_section(report.controls, report.overall.estimates["average_precision"]) if report.controls else "",
        dire_section(report.dire, report.overall) if report.dire else "",
        formats_section(report.formats) if report.formats else "",
        _origin(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.model.name)}: evaluation</title>"
        f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def _alarm(report: Report) -> str:
    """Say above all else that the data give their labels away, where they do."""
    if not report.controls or not report.controls.labels_leak:
        return ""
    by_file = report.controls.file_statistics
    return (
        '<p class="banner alarm"><strong>The files give their labels away.</strong> Format, size and compression, '
        "without a pixel, tell fakes from real images with an average precision of "
        f"{escape(rounded(by_file.value or 0))} on these images ({escape(spread(*astuple(by_file)))}); chance is "
        f"{escape(rounded(report.controls.chance.value or 0))}. The model may have used the same traces, so no figure "
        "below can be trusted. Store both classes alike, and evaluate again.</p>"
    )


def _head(report: Report) -> str:
    overall = report.overall
    notice = (
        f'<p class="banner">{escape(report.model.name)} is a demonstration model. These figures show how an evaluation '
        "looks; they say nothing about images of other generators.</p>"
        if report.model.demonstration
        else ""
    )
    rule = (
        f"the policy {escape(report.policy.name)}, threshold {overall.threshold:.4g}"
        if report.policy
        else f"its card's threshold, {overall.threshold:.4g}"
    )
    return (
        f"<h1>{escape(report.model.name)}</h1>"
        f'<p class="soft">scored {overall.reals:,} real images of {overall.real_groups:,} independent sources and '
        f"{overall.fakes:,} fakes of {len(report.data.generators)} "
        f"{'generator' if len(report.data.generators) == 1 else 'generators'}, by {rule} · "
        f"{escape(report.made_at[:10])}</p>{notice}{_known_here(report)}{_chosen_here(report)}"
        "<p>A verdict is evidence, not proof. What follows says how good the evidence is on these images; on other "
        "images and other generators it may be worse.</p>"
    )


def _known_here(report: Report) -> str:
    """Say how many of the images the model was trained on; where that is not known, go by the name of the split."""
    data, images = report.data, report.overall.reals + report.overall.fakes
    if data.seen_in_training:
        known = f"The model was trained on {data.seen_in_training:,} of these {images:,} images"
    elif data.seen_in_training is None and data.split == "train":
        known = "The model was trained on this split"
    else:
        return ""
    return f'<p class="banner">{known}: these figures are better than on images that it does not know.</p>'


def _chosen_here(report: Report) -> str:
    if not report.policy or not report.policy.seen_in_calibration:
        return ""
    return (
        f'<p class="banner">The policy was made of {report.policy.seen_in_calibration:,} of these '
        f"{report.overall.reals + report.overall.fakes:,} images: its figures here are better than on others.</p>"
    )


def _summary(report: Report) -> str:
    told = report.overall.estimates
    tiles = [
        tile("Average precision", told["average_precision"]),
        tile("ROC-AUC", told["roc_auc"]),
        tile("Fakes found", told["true_positive_rate"]),
        tile("Real images classified as FAKE", told["false_positive_rate"]),
        tile("Found at 1 % false alarms", told["tpr_at_1_percent_fpr"], _NOT_ESTIMABLE),
        tile("Accuracy", told["accuracy"]),
        tile("Brier score", told["brier"]),
        tile("Calibration error", told["calibration_error"]),
    ]
    rows = [
        (
            f"1 in {round(1 / prevalence):,}",
            cell(told[f"precision_at_{100 * prevalence:g}_percent"], percent=True),
            interval_strip(told[f"precision_at_{100 * prevalence:g}_percent"]),
        )
        for prevalence in PREVALENCES
    ]
    worth = table(("fakes among the images", "FAKE verdicts that are right", ""), rows)
    return (
        f'<p class="says">{_sentence(told)}</p><div class="tiles">{"".join(tiles)}</div>'
        f'<p class="under">Under each figure its {confidence_level(report.confidence)} interval, by '
        f"{report.resamples:,} draws of "
        "whole source images: crops and fakes of one real image are not independent. No share is stated more "
        "surely than exact bounds of as many real images allow; if all or none was counted, the bound stands (≥ or ≤)."
        "</p>"
        "<h2>What a FAKE verdict is worth</h2>"
        '<p class="under">Most images on most platforms are real, so even rare false alarms may outnumber the '
        f"fakes that are found.</p>{worth}{_left_open(report)}"
    )


def _sentence(told: dict[str, Estimate]) -> str:
    alarms, found = told["false_positive_rate"], told["true_positive_rate"]
    return (
        f"Of 100 real images like these it classifies {_of_hundred(alarms)} as FAKE; of 100 such fakes it finds "
        f"{_of_hundred(found)}."
    )


def _of_hundred(estimate: Estimate) -> str:
    value, low, high = (None if each is None else 100 * each for each in astuple(estimate))
    if value is None or low is None or high is None:
        return "nobody knows how many"
    if value == 0:
        return f"at most <strong>{high:.3g}</strong>"
    if value == 100:
        return f"at least <strong>{low:.3g}</strong>"
    return f"about <strong>{value:.3g}</strong> ({low:.3g} to {high:.3g})"


def _left_open(report: Report) -> str:
    policy = report.policy
    if policy is None or policy.inconclusive_from is None:
        return ""
    return (
        f"<p>The policy classifies images from {policy.inconclusive_from:.4g} up to the threshold as INCONCLUSIVE: "
        f"of 100 real images {_of_hundred(policy.inconclusive_reals)}, "
        f"of 100 fakes {_of_hundred(policy.inconclusive_fakes)}. "
        "All figures here count them as not classified as FAKE.</p>"
    )


def _charts(report: Report) -> str:
    curves, overall = report.curves, report.overall
    single = [Line(name, report.generators_roc[name], "one") for name in largest(report.generators)]
    singles = single if len(single) > 1 else []
    images = overall.fakes + overall.reals
    marks = [("FAKE from here", overall.threshold)]
    if report.policy and report.policy.inconclusive_from is not None:
        marks.append(("inconclusive", report.policy.inconclusive_from))
    figures = [
        (
            "ROC",
            curve_chart(
                "ROC curve",
                ("real images classified as FAKE", "fakes found"),
                [*singles, Line("all generators", curves.roc, "all")],
            ),
            "Every threshold is a point. The closer to the upper left corner, the better; the dashed line is guessing."
            + (" Thin: one generator each." if singles else ""),
        ),
        (
            "Precision and recall",
            curve_chart(
                "Precision over recall",
                ("fakes found (recall)", "FAKE verdicts that are right (precision)"),
                [Line("all generators", curves.precision_recall, "all")],
                chance=overall.fakes / images,
            ),
            f"Dashed: the share of fakes, {overall.fakes:,} of {images:,} images. The area is the average precision.",
        ),
        (
            "Reliability",
            reliability_chart(
                "Reliability", ("stated probability of being fake", "share of fakes"), curves.reliability
            ),
            _HONEST,
        ),
        (
            "Probabilities",
            histogram_chart(
                "Histogram of probabilities",
                ("stated probability of being fake", "share of the class"),
                curves.histogram,
                marks,
            ),
            "Real images upwards, fakes downwards. Where they overlap, no threshold separates them.",
        ),
    ]
    drawn = "".join(
        f"<figure><h3>{title}</h3>{chart}<figcaption>{caption}</figcaption></figure>"
        for title, chart, caption in figures
    )
    return f'<h2>Curves</h2><div class="charts">{drawn}</div>'


def _origin(report: Report) -> str:
    data, model = report.data, report.model
    facts = {
        "Model": f"{model.name}, weights {model.weights_sha256}",
        "Ran on": f"{model.device} in {model.precision}, {report.seconds:,.0f} s",
        "Data": f"{data.source}, split {data.split}",
        "Data digest": data.sha256,
        "Known to the model": _known_to_model(data),
        **({"Known to the policy": _known_to_policy(report.policy)} if report.policy else {}),
        "Intervals": f"{report.resamples:,} draws of source images, seed {report.seed}",
        "Made at": report.made_at,
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    listed_files = data.skipped[:_SKIPPED_SHOWN]
    skipped = "".join(f"<dt>{escape(file.path)}</dt><dd>{escape(file.reason)}</dd>" for file in listed_files)
    if more := len(data.skipped) - len(listed_files):
        skipped += f"<dt>{more:,} more</dt><dd>listed in report.json</dd>"
    left = (
        f"<details><summary>{len(data.skipped):,} files were skipped</summary><dl>{skipped}</dl></details>"
        if skipped
        else '<p class="soft">No file was skipped.</p>'
    )
    return f"<h2>Where this comes from</h2><dl>{listed}</dl>{left}"


def _known_to_model(data: Data) -> str:
    if data.seen_in_training is None or data.seen_in_validation is None:
        return "not known: its training left no list of its images beside its card"
    return f"{data.seen_in_training:,} images from training, {data.seen_in_validation:,} from validation"


def _known_to_policy(policy: PolicyUsed) -> str:
    if policy.seen_in_calibration is None:
        return "not known: no list of the images that it was made of lies beside it"
    return f"{policy.seen_in_calibration:,} images that it was made of"
