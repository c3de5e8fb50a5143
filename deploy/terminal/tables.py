"""What the operator's commands share: opening the database, and showing rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import click
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from deploy.terminal.console import output
from deploy.terminal.streams import print_json, readable
from shared.database.engine import Database
from shared.settings import Settings

_ANY_WIDTH = 10_000
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def open_database(settings: Settings) -> Database:
    """Return the database of these settings, for a `with` block."""
    return Database(settings.database_url.get_secret_value(), pool_size=1)


def show_rows(titles: Sequence[str], rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Print rows as a table for people, or as one JSON document each and nothing else."""
    console = output()
    if as_json:
        for row in rows:
            print_json(row)
    elif not console.is_terminal:
        for row in rows:  # a line each, for what reads lines; the titles are for people
            click.echo("\t".join(_cell(value) for value in row.values()))
    else:
        table = _table(titles, rows)
        wide = Measurement.get(console, console.options.update_width(_ANY_WIDTH), table).maximum
        console.print(table if wide <= console.width else _blocks(titles, rows), soft_wrap=True)


def _table(titles: Sequence[str], rows: Sequence[Mapping[str, object]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold dim")
    for title in titles:
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    return table


def _blocks(titles: Sequence[str], rows: Sequence[Mapping[str, object]]) -> Text:
    """Each row as lines of a title and a value: where a table is too wide, no id and no time is broken."""
    longest = max(map(len, titles))
    blocks = []
    for row in rows:
        told = zip(titles, map(_cell, row.values()), strict=True)
        blocks.append(Text("\n").join(Text.assemble((f"{t:<{longest}}", "bold dim"), f"  {v}") for t, v in told if v))
    return Text("\n\n").join(blocks)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, str) and _TIME.fullmatch(value):
        return f"{value[:10]} {value[11:16]} UTC"
    return "" if value is None else readable(value)
