"""The API against its own OpenAPI document: generated requests, right and wrong, get the answers it promises.

Whatever is sent: never a 5xx, only documented statuses and content types, bodies of the documented form; and nothing
of another tenant's, although a third of the requests name its things by their ids. PostgreSQL's own wall is taken away
in the long run, so that the routes themselves are examined. `CONTRACT_CASES=10000 pytest -m slow -s` on this file
makes that run as long as that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from shared.database.engine import Database
from tests.support.api_world import ApiWorld, Tenant

OPERATIONS = 30
CASES = int(os.environ.get("CONTRACT_CASES", "1000"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
#: Parameters whose answers are of another kind than the document says: they go with the next release.
DEPRECATED = {("/v1/jobs/{job_id}/artifacts/{name}", "link"), ("/v1/jobs/{job_id}/heatmap", "format")}
#: In all that the other tenant owns; never in an answer to anybody else.
CANARY = "canary-of-the-other-tenant"


@dataclass(frozen=True)
class Owned:
    """What a tenant has, by the names of the parameters that name it."""

    ids: dict[str, str]
    cursor: str
    idempotency_key: str


def _furnish(api: ApiWorld, tenant: Tenant, word: str) -> Owned:
    """Make two of each thing, so that requests reach further than 404 and lists have pages."""
    job_id, endpoint = "", tenant.add_endpoint(f"https://receiver.example/{word}")
    for _ in range(2):
        tenant.submit(metadata=f'{{"note": "{word}"}}')
        job_id = api.succeed_next()
    return Owned(
        {
            "job_id": job_id,
            "endpoint_id": endpoint["id"],
            "delivery_id": tenant.get("/v1/webhook-deliveries").json["items"][0]["id"],
            "key_id": tenant.post("/v1/keys", json={"name": word}).json["id"],
        },
        tenant.get("/v1/jobs?limit=1").json["links"]["next"].partition("cursor=")[2],
        word,
    )


@dataclass
class Run:
    """What came of a run."""

    sent: int = 0
    aimed_at_the_other: int = 0
    seconds: float = 0.0


def _run(api: ApiWorld, cases: int) -> Run:
    """Send `cases` generated requests of the first tenant, spread over the operations and both modes."""
    schema = schemathesis.openapi.from_wsgi("/openapi.json", api.app)
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(operations) == OPERATIONS
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    generated = st.one_of([operation.as_strategy(mode) for operation in operations for mode in modes])
    foreign, own = _furnish(api, api.other, CANARY), _furnish(api, api.one, "own")
    before, run, began = _all_of(api.other), Run(), time.monotonic()

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=generated, named=st.sampled_from([None, own, foreign]))
    def send(case: Case[Any], named: Owned | None) -> None:
        run.sent += 1
        headers = dict(api.one.headers)
        if isinstance(case.query, dict):
            case.query = {name: value for name, value in case.query.items() if (case.path, name) not in DEPRECATED}
        if named is not None:
            _name(case, named, headers)
        response = case.call_and_validate(headers=headers, checks=CHECKS)
        told = response.content + repr(response.headers).encode()
        assert CANARY.encode() not in told, (case.method, case.path)
        if named is foreign and case.path_parameters:
            run.aimed_at_the_other += 1
            assert response.status_code >= 400, (case.method, case.path)

    send()
    assert _all_of(api.other) == before
    run.seconds = time.monotonic() - began
    print(f"{run.sent} requests, {run.aimed_at_the_other} at another tenant's things, {run.seconds:.0f} s")  # noqa: T201
    return run


def _name(case: Case[Any], owned: Owned, headers: dict[str, str]) -> None:
    """Have a generated request name what a tenant owns, wherever it can name anything."""
    in_path = {name: value for name, value in owned.ids.items() if f"{{{name}}}" in case.path}
    case.path_parameters = {**(case.path_parameters or {}), **in_path}
    if isinstance(case.query, dict):
        known = {**owned.ids, "cursor": owned.cursor}
        case.query = {name: known.get(name, value) for name, value in case.query.items()}
    headers["Idempotency-Key"] = owned.idempotency_key


def _all_of(tenant: Tenant) -> list[Any]:
    """Everything that a tenant has, as it sees it."""
    lists = ("/v1/jobs", "/v1/webhook-endpoints", "/v1/webhook-deliveries")
    keys = [item["id"] for item in tenant.get("/v1/keys").json["items"]]  # when they were last used changes
    return [keys, *(tenant.get(path).json["items"] for path in lists)]


def test_generated_requests_get_documented_answers(api: ApiWorld) -> None:
    run = _run(api, 300)
    assert run.sent >= 300
    assert run.aimed_at_the_other >= 10


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_very_many_requests_leak_nothing_without_the_wall_of_the_database(
    api_with: Callable[..., ApiWorld], api_database: Database
) -> None:
    owner_url = api_database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    run = _run(api_with(database_url=SecretStr(owner_url), rate_limit=10**9), CASES)
    assert run.sent >= CASES
    assert run.aimed_at_the_other >= CASES // 20
