"""Pieces of the report's page: tiles, tables and their cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worker.training.figures import Estimate


def tile(name: str, estimate: Estimate, otherwise: str = "cannot be said") -> str:
    """Return a figure with its name and interval, in large type; `otherwise`: why there is none."""
    if estimate.value is None:
        value = f'<div class="value none">–</div><div class="range">{otherwise}</div>'
    else:
        value = (
            f'<div class="value">{estimate.value:.3f}</div><div class="range">{_range(estimate, "{:.3f}".format)}</div>'
        )
    return f'<div class="tile"><div class="name">{name}</div>{value}</div>'


def cell(estimate: Estimate, *, percent: bool = False) -> str:
    """Return a figure with its interval, for a table."""
    if estimate.value is None:
        return "–"
    written: Callable[[float], str] = "{:.1%}".format if percent else "{:.3f}".format
    return f'{written(estimate.value)}<span class="range">{_range(estimate, written)}</span>'


def _range(estimate: Estimate, written: Callable[[float], str]) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{written(estimate.low)} – {written(estimate.high)}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], words: int | None = None) -> str:
    """Return a table of cells that are HTML already; `words`: the column of sentences, which may wrap."""
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=words' if at == words else ''}>{text}</td>" for at, text in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
