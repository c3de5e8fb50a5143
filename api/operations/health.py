"""Whether the process answers, and whether the servers that it needs do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import structlog
from apiflask import APIBlueprint
from sqlalchemy import text

from api.dependencies import Resources, resources
from api.v1.responses import answer
from api.v1.schemas.operations import Alive, Readiness
from shared.broker.celery_app import ANALYSIS_QUEUE
from shared.database.tables import Base

health_blueprint = APIBlueprint("health", __name__)

#: A server that takes longer than this to answer counts as down.
_SECONDS = 3
_REQUIRED = {"database": True, "object_store": True, "redis": False}
#: One pool for each server, shared by all requests: probes of a frozen server neither pile up nor delay the others.
_probes = {name: ThreadPoolExecutor(max_workers=2, thread_name_prefix=f"ready-{name}") for name in _REQUIRED}

# From the catalog, which every role may read: the API may not read every column.
_COLUMNS = text(
    "SELECT relname, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid "
    "WHERE relnamespace = current_schema()::regnamespace AND attnum > 0"
)

_log = structlog.get_logger(__name__)


@health_blueprint.get("/healthz")
@health_blueprint.doc(tags=["Service"], responses=answer(Alive, "The process answers."))
def alive() -> dict[str, str]:
    """Tell that the process answers. It asks no other server."""
    return {"status": "alive"}


@health_blueprint.get("/readyz")
@health_blueprint.doc(
    tags=["Service"],
    responses=answer(Readiness, "Requests can be served.") | answer(Readiness, "Requests would be refused.", 503),
)
def ready() -> tuple[dict[str, Any], int]:
    """Tell whether PostgreSQL and the object store can be used.

    The answer reports Redis too, but the API accepts jobs without it.
    """
    asked = {name: _probes[name].submit(probe) for name, probe in _questions(resources()).items()}
    wait(asked.values(), timeout=_SECONDS)
    checks = {name: {"state": _state(name, future), "required": _REQUIRED[name]} for name, future in asked.items()}
    usable = all(check["state"] == "up" for check in checks.values() if check["required"])
    return {"status": "ready" if usable else "unavailable", "checks": checks}, 200 if usable else 503


def _questions(around: Resources) -> dict[str, Callable[[], object]]:
    return {
        "database": partial(_ask_for_tables, around),
        "object_store": around.store.ping,
        "redis": partial(_ask_redis, around),
    }


def _ask_for_tables(around: Resources) -> None:
    """Raise if PostgreSQL is down, or lacks a table or column that requests need."""
    with around.database.begin() as session:
        there = {tuple(row) for row in session.execute(_COLUMNS)}
    tables = Base.metadata.tables.values()
    if missing := {(table.name, column.name) for table in tables for column in table.columns} - there:
        raise LookupError(f"the database lacks {len(missing)} columns, {min(missing)} among them")


def _ask_redis(around: Resources) -> None:
    if around.broker.waiting(ANALYSIS_QUEUE) is None:
        raise ConnectionError("Redis does not answer")


def _state(name: str, future: Future[object]) -> str:
    if future.done() and not future.cancelled() and future.exception() is None:
        return "up"
    cause = "no answer" if not future.done() else repr(future.exception())
    future.cancel()
    #: `/readyz` asked the server that `dependency` names and got no answer, or an error: `cause`.
    _log.warning("dependency_down", dependency=name, cause=cause)
    return "down"
