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

#: The settings that have PostgreSQL send each plan to its client.
_SETTINGS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_format": "json",
    "client_min_messages": "log",
}
_PLAN_MARK = "plan:"


@dataclass(frozen=True)
class ReadStats:
    """Sums over some statements."""

    rows: int
    """Rows that were read from tables and indexes, those included that a condition then left out."""
    blocks: int
    """Blocks of tables and indexes that were asked for, those of dead rows included. What a function asks for within a
    statement that writes counts twice: it cannot be told from a trigger, which the statement's own plan leaves out."""
    whole_tables: frozenset[str]
    """Tables that were read from one end to the other."""
    statements: tuple[str, ...]


class _NoticeForwarder(list[str]):
    """Takes the driver's notices, which SQLAlchemy drops at once: it hands each on, and holds none."""

    def __init__(self, notices: list[str]) -> None:
        super().__init__()
        self._notices = notices

    def append(self, notice: str) -> None:
        self._notices.append(notice)


def explain_statements(url: str, roles: Sequence[str]) -> None:
    """Have PostgreSQL explain all statements of these roles in the database of `url`, from their next connection on."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg2"), poolclass=NullPool)
    with engine.begin() as connection:
        name = connection.scalar(text("SELECT quote_ident(current_database())"))
        for role, (setting, value) in product(roles, _SETTINGS.items()):
            connection.execute(text(f"ALTER ROLE {role} IN DATABASE {name} SET {setting} = '{value}'"))


class StatementLog:
    """Databases that tell what their statements read: see `explain_statements`."""

    def __init__(self) -> None:
        self._notices: list[str] = []
        self._sent: set[str] = set()

    def watch(self, database: Database) -> Database:
        """Listen to a database that was not used yet."""

        @event.listens_for(database.engine, "connect")
        def listen(connection: Any, _record: object) -> None:
            connection.notices = _NoticeForwarder(self._notices)

        @event.listens_for(database.engine, "after_cursor_execute")
        def note(_connection: object, cursor: Any, *_: object) -> None:
            self._sent.add(cursor.query.decode().strip())

        return database

    @contextmanager
    def reading(self) -> Iterator[list[ReadStats]]:
        """Add what was read in the block to the list that is given."""
        self._notices.clear()
        self._sent.clear()
        stats: list[ReadStats] = []
        yield stats
        stats.append(_sum([_parse(notice) for notice in self._notices if _PLAN_MARK in notice], self._sent))


def _parse(notice: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(notice[notice.index("{") :])
    return found


def _sum(plans: list[dict[str, Any]], sent: Collection[str]) -> ReadStats:
    nodes = [node for plan in plans for node in _nodes(plan["Plan"])]
    return ReadStats(
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
