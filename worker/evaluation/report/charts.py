"""Charts as inline SVG. Colours and type come from the page's style sheet, so they follow its light and dark forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from worker.evaluation.curves import Bin, Histogram, Points
from worker.evaluation.estimates import Estimate
from worker.metrics.rounding import rounded

_SIDE = 300
_LEFT, _TOP, _RIGHT, _BOTTOM = 58, 12, 14, 42
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_STRIP = 120


@dataclass(frozen=True)
class Line:
    """A curve in the unit square, and the class by which the style sheet colours it."""

    label: str
    points: Points
    style: str


def curve_chart(title: str, axes: tuple[str, str], lines: Sequence[Line], *, chance: float | None = None) -> str:
    """Return curves over the unit square. `chance`: a level line; without it, the diagonal is drawn."""
    level = [(0.0, 0.0), (1.0, 1.0)] if chance is None else [(0.0, chance), (1.0, chance)]
    reference = f'<path class="reference" d="{_path(level)}"/>'
    curves = [
        f'<path class="curve {line.style}" d="{_path(line.points)}"><title>{escape(line.label)}</title></path>'
        for line in lines
    ]
    return _framed(title, axes, [reference, *curves])


def reliability_chart(title: str, axes: tuple[str, str], bins: Sequence[Bin]) -> str:
    """Return the shares of fakes over the probabilities; on the diagonal, probabilities are honest."""
    points = [(each.mean_probability, each.share_fake) for each in bins]
    drawn = [
        f'<path class="reference" d="{_path([(0.0, 0.0), (1.0, 1.0)])}"/>',
        f'<path class="curve all" d="{_path(points)}"/>',
    ]
    for each in bins:
        stated, fakes = (rounded(share, percent=True) for share in (each.mean_probability, each.share_fake))
        told = escape(f"{rounded(each.mass, percent=True)} of the weight: stated {stated}, fakes {fakes}")
        drawn.append(
            f'<circle class="dot" cx="{_x(each.mean_probability):.1f}" cy="{_y(each.share_fake):.1f}" r="4.5">'
            f"<title>{told}</title></circle>"
        )
    return _framed(title, axes, drawn)


def histogram_chart(title: str, axes: tuple[str, str], histogram: Histogram, marks: Sequence[tuple[str, float]]) -> str:
    """Return real images upwards and fakes downwards from the middle, and `marks`: labelled vertical lines."""
    middle = _TOP + _SIDE / 2
    scale = (_SIDE / 2 - 6) / max(*histogram.reals, *histogram.fakes, 1e-9)
    drawn = [
        *_bars("real", histogram.reals, scale, upwards=True),
        *_bars("fake", histogram.fakes, scale, upwards=False),
        f'<path class="axis" d="M{_LEFT} {middle:.1f}h{_SIDE}"/>',
        *(f'<path class="mark" d="M{_x(place):.1f} {_TOP}v{_SIDE}"/>' for _, place in marks),
        # Real images gather on the left and fakes on the right: their names stand where bars are low.
        _text("note real", _LEFT + _SIDE - 6, _TOP + 46, "end", "photographs"),
        _text("note fake", _LEFT + 6, _TOP + _SIDE - 8, "start", "fakes"),
    ]
    for line, (label, place) in enumerate(marks):
        side, gap = ("end", -5) if place > 0.5 else ("start", 5)
        drawn.append(_text("note", _x(place) + gap, _TOP + 12 + 16 * line, side, label))
    return _svg(title, _frame() + _horizontal_ticks() + _labels(axes) + drawn)


def interval_strip(estimate: Estimate, reference: float | None = None) -> str:
    """Return a small picture of a figure between 0 and 1 with its interval, to stand in a table."""
    if estimate.value is None and estimate.low is None:
        return ""

    def place(value: float) -> float:
        return 4 + value * (_STRIP - 8)

    parts = [f'<path class="grid" d="M4 8H{_STRIP - 4}"/>']
    if reference is not None:
        parts.append(f'<path class="mark" d="M{place(reference):.1f} 1v14"/>')
    if estimate.low is not None and estimate.high is not None:
        parts.append(f'<path class="span" d="M{place(estimate.low):.1f} 8H{place(estimate.high):.1f}"/>')
    if estimate.value is not None:
        parts.append(f'<circle class="dot" cx="{place(estimate.value):.1f}" cy="8" r="4"/>')
    return f'<svg class="strip" viewBox="0 0 {_STRIP} 16" aria-hidden="true">{"".join(parts)}</svg>'


def _bars(style: str, shares: Sequence[float], scale: float, *, upwards: bool) -> list[str]:
    """Bars from the chart's middle; `scale`: pixels of a share of 1."""
    width, middle = _SIDE / len(shares), _TOP + _SIDE / 2
    return [
        f'<rect class="bar {style}" x="{_LEFT + number * width + 0.75:.1f}" '
        f'y="{middle - share * scale if upwards else middle:.1f}" width="{width - 1.5:.1f}" '
        f'height="{share * scale:.1f}" rx="1.5"><title>{number / len(shares):.2f} to {(number + 1) / len(shares):.2f}: '
        f"{escape(rounded(share, percent=True))}</title></rect>"
        for number, share in enumerate(shares)
    ]


def _text(style: str, x: float, y: float, anchor: str, words: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _framed(title: str, axes: tuple[str, str], drawn: Sequence[str]) -> str:
    vertical = [_text("tick", _LEFT - 7, _y(tick) + 4, "end", f"{tick:g}") for tick in _TICKS]
    return _svg(title, _frame() + _horizontal_ticks() + vertical + _labels(axes) + list(drawn))


def _frame() -> list[str]:
    lines = "".join(f"M{_LEFT} {_y(tick):.1f}h{_SIDE}M{_x(tick):.1f} {_TOP}v{_SIDE}" for tick in _TICKS)
    return [f'<path class="grid" d="{lines}"/>']


def _horizontal_ticks() -> list[str]:
    return [_text("tick", _x(tick), _TOP + _SIDE + 16, "middle", f"{tick:g}") for tick in _TICKS]


def _labels(axes: tuple[str, str]) -> list[str]:
    down = _TOP + _SIDE / 2
    return [
        _text("label", _LEFT + _SIDE / 2, _TOP + _SIDE + 36, "middle", axes[0]),
        f'<text class="label" transform="rotate(-90)" x="{-down}" y="12" text-anchor="middle">{escape(axes[1])}</text>',
    ]


def _svg(title: str, parts: Sequence[str]) -> str:
    width, height = _LEFT + _SIDE + _RIGHT, _TOP + _SIDE + _BOTTOM
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _path(points: Points) -> str:
    return "M" + "L".join(f"{_x(x):.1f} {_y(y):.1f}" for x, y in points)


def _x(share: float) -> float:
    return _LEFT + share * _SIDE


def _y(share: float) -> float:
    return _TOP + (1 - share) * _SIDE
