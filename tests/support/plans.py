"""What statements really read: the plan of each that a database executes, as PostgreSQL itself tells it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

from sqlalchemy import NullPool, create_engine, event, make_url, text

from shared.database.engine import Database

#: The settings of those who tell.
_TOLD = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_format": "json",
    "client_min_messages": "log",
}
_WORD = "plan:"


@dataclass(frozen=True)
class Reading:
    """Sums over some statements."""

    rows: int
    """Rows that were read from tables and indexes, those included that a condition then left out."""
    blocks: int
    """Blocks of tables and indexes that were asked for, those of dead rows included. What a function asks for within a
    statement that writes counts twice: it cannot be told from a trigger, which the statement's own plan leaves out."""
    whole_tables: frozenset[str]
    """Tables that were read from one end to the other."""
    statements: tuple[str, ...]


class _Ear(list[str]):
    """For the driver's notices, which SQLAlchemy drops as soon as they are there: it hands each on, and holds none."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__()
        self._heard = heard

    def append(self, notice: str) -> None:
        self._heard.append(notice)


def have_told(url: str, roles: Sequence[str]) -> None:
    """Have all that these roles do in the database of `url` be told, from their next connection on."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg2"), poolclass=NullPool)
    with engine.begin() as connection:
        name = connection.scalar(text("SELECT quote_ident(current_database())"))
        for role, (setting, value) in product(roles, _TOLD.items()):
            connection.execute(text(f"ALTER ROLE {role} IN DATABASE {name} SET {setting} = '{value}'"))


class Watched:
    """Databases that tell what their statements read: see `have_told`."""

    def __init__(self) -> None:
        self._notices: list[str] = []
        self._sent: set[str] = set()

    def watch(self, database: Database) -> Database:
        """Listen to a database that was not used yet."""

        @event.listens_for(database.engine, "connect")
        def listen(connection: Any, _record: object) -> None:
            connection.notices = _Ear(self._notices)

        @event.listens_for(database.engine, "after_cursor_execute")
        def note(_connection: object, cursor: Any, *_: object) -> None:
            self._sent.add(cursor.query.decode().strip())

        return database

    @contextmanager
    def reading(self) -> Iterator[list[Reading]]:
        """Add what was read in the block to the list that is given."""
        self._notices.clear()
        self._sent.clear()
        told: list[Reading] = []
        yield told
        told.append(_sum([_parse(notice) for notice in self._notices if _WORD in notice], self._sent))


def _parse(notice: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(notice[notice.index("{") :])
    return found


def _sum(plans: list[dict[str, Any]], sent: Collection[str]) -> Reading:
    nodes = [node for plan in plans for node in _nodes(plan["Plan"])]
    return Reading(
        rows=round(sum(_rows_read(node) for node in nodes if "Relation Name" in node or "Index Name" in node)),
        blocks=_blocks(plans, sent),
        whole_tables=frozenset(node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"),
        statements=tuple(plan["Query Text"] for plan in plans),
    )


def _blocks(plans: list[dict[str, Any]], sent: Collection[str]) -> int:
    """Plans of functions come before that of the statement that was sent, which holds what they asked for."""
    total = within = 0
    for plan in plans:
        asked = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
        if plan["Query Text"].strip() not in sent:
            within += asked
            continue
        writes = any(node["Node Type"] == "ModifyTable" for node in _nodes(plan["Plan"]))
        total += asked + (within if writes else 0)
        within = 0
    return total + within


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


def _rows_read(node: dict[str, Any]) -> float:
    dropped = sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck"))
    return float((node["Actual Rows"] + dropped) * node["Actual Loops"])
