"""Usage over HTTP: how many jobs, bytes and device seconds a tenant's keys used."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from apiflask import APIBlueprint

from api.auth import caller, needs
from api.dependencies import resources
from api.problems.table import field_error
from api.v1.responses import answer
from api.v1.schemas.usage import MOST_DAYS, Usage, UsageQuery
from shared.tenants import usage
from shared.tenants.api_keys import Scope

usage_blueprint = APIBlueprint("usage", __name__, url_prefix="/v1/usage")


@usage_blueprint.get("")
@usage_blueprint.input(UsageQuery, location="query", arg_name="query")
@usage_blueprint.doc(tags=["Keys"], responses=answer(Usage, "The days on which jobs ended."))
@needs(Scope.READ)
def index(query: UsageQuery) -> dict[str, Any]:
    """List how many jobs, bytes and device seconds your tenant used, by day and key.

    A job counts on the day on which it ends. Jobs that are deleted later still count.
    """
    first, last = query.days(datetime.now(UTC).date())
    if not timedelta(0) <= last - first < timedelta(days=MOST_DAYS):
        raise field_error("from", f"must not be after `to`, and at most {MOST_DAYS - 1} days before it")
    with resources().database.begin() as session:
        used = usage.read(session, caller().tenant_id, first, last)
    return {"items": [_present(each) for each in used]}


def _present(used: usage.DayUsage) -> dict[str, Any]:
    return {
        "day": used.day.isoformat(),
        "key_id": str(used.key_id) if used.key_id else None,
        "jobs": used.jobs,
        "bytes": used.bytes,
        "device_seconds": round(used.device_seconds, 3),
    }
