"""What the operator's commands have in common that read and write rows: the database, and how rows are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import click
from rich.table import Table

from deploy.terminal import output
from shared.database import Database
from shared.settings import Settings


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """Yield the database of these settings, closed at the end."""
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        yield database
    finally:
        database.close()


def show_rows(titles: Sequence[str], rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Print rows as a table for people, or as one JSON document each and nothing else."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold dim")
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title == "id")  # an id is there to be copied
    for row in rows:
        if as_json:
            click.echo(json.dumps(row, ensure_ascii=False))
        table.add_row(*(_cell(value) for value in row.values()))
    if not as_json:
        output().print(table)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else str(value)
