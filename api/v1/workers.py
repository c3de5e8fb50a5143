"""The list of workers, for the operator."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint

from api.auth import needs, require_operator
from api.dependencies import resources
from api.problems.table import OPERATOR_ONLY
from api.v1.responses import answer, refusals
from api.v1.schemas.operations import WorkerList
from shared.presenter import present_worker
from shared.tenants.api_keys import Scope
from shared.workers.registry import list_workers

workers_blueprint = APIBlueprint("workers", __name__, url_prefix="/v1/workers")


@workers_blueprint.get("")
@workers_blueprint.doc(tags=["Operator"], responses=answer(WorkerList, "All of them.") | refusals(OPERATOR_ONLY))
@needs(Scope.READ)
def index() -> dict[str, Any]:
    """List the workers, with their hosts, devices and last heartbeats."""
    require_operator()
    with resources().database.begin() as session:
        return {"items": [present_worker(worker, silence) for worker, silence in list_workers(session)]}
