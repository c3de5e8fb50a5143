"""The section of the report's page that shows the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from shared.percentages import probability_percent
from worker.evaluation.report.thumbnails import Exhibit, Gallery


def gallery_section(gallery: Gallery) -> str:
    """Return the real images that were classified as FAKE and the fakes that were missed, the surest mistakes first."""
    return (
        "<h2>The worst mistakes</h2>"
        '<p class="under">One image of each source, the surest first, with its probability of being fake. '
        "What they have in common may tell why. All others are in scores.csv. This page holds small copies of them: "
        "mind whose images they are before you pass it on.</p>"
        + _row("Real images classified as FAKE", gallery.false_alarms, gallery.false_alarms_in_all)
        + _row("Fakes not classified as FAKE", gallery.misses, gallery.misses_in_all)
    )


def _row(title: str, shown: Sequence[Exhibit], in_all: int) -> str:
    if not shown:
        return f'<h3>{title}</h3><p class="soft">There are no such mistakes.</p>'
    of_all = f"{len(shown)} of {in_all:,}" if in_all > len(shown) else f"{in_all:,}"
    return f'<h3>{title}: {of_all}</h3><div class="shots">{"".join(map(_shot, shown))}</div>'


def _shot(exhibit: Exhibit) -> str:
    picture = (
        f"<img src='{exhibit.picture}' alt=''>"
        if exhibit.picture
        else '<div class="gone">cannot be read any more</div>'
    )
    generator = f" · {escape(exhibit.generator)}" if exhibit.generator else ""
    inconclusive = " · INCONCLUSIVE" if exhibit.verdict.prediction == "INCONCLUSIVE" else ""
    probability = escape(probability_percent(exhibit.verdict.probability, 1))
    return (
        f'<figure class="shot">{picture}<figcaption><strong>{probability}</strong>{generator}{inconclusive}<br>'
        f"{escape(exhibit.path)}</figcaption></figure>"
    )
