"""Pieces of the report's page: tiles, tables and their cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from html import escape

from worker.evaluation.estimates import Estimate
from worker.metrics.rounding import NOT_ESTIMABLE, headline, is_bound, spread


def tile(name: str, estimate: Estimate, otherwise: str = NOT_ESTIMABLE) -> str:
    """Return a figure with its name and interval, in large type; `otherwise`: why there is none."""
    if estimate.value is None:
        value = f'<div class="value none">–</div><div class="range">{otherwise}</div>'
    else:
        told = astuple(estimate)
        interval = f"{estimate.value:g} here, {spread(*told)}" if is_bound(*told) else spread(*told)
        value = f'<div class="value">{escape(headline(*told))}</div><div class="range">{escape(interval)}</div>'
    return f'<div class="tile"><div class="name">{name}</div>{value}</div>'


def cell(estimate: Estimate, *, percent: bool = False) -> str:
    """Return a figure with its interval, for a table."""
    told = astuple(estimate)
    value, interval = (escape(written(*told, percent=percent)) for written in (headline, spread))
    return f'{value}<span class="range">{interval}</span>'


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
